// net/connection.h  (inside the module only)
//
// One client's connection from accept to close: reads heads, finds the handler, runs it, sends the
// answer, and starts again. Io thread only. Its coroutine owns it; the server's list only points at
// it.
//
// Reading has one place at a time: the head and body readers, or the watch, which reads ahead
// during a handler only to see whether the client is still there. The watch is always settled
// before anything else reads.

#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "net/exchange.h"
#include "net/request_parser.h"
#include "net/server_state.h"
#include "net/transport.h"

namespace quad::net {

struct RawStream::State {
  std::shared_ptr<Transport> transport;
  std::string read_ahead;  ///< came with the request; read before the transport
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  /// `reject`: there is no room; every request is answered with 503. `local`: over a unix socket.
  Connection(std::shared_ptr<ServerState> state, std::shared_ptr<asio::ssl::context> tls,
             StreamSocket socket, bool reject, bool local);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  asio::awaitable<void> run();

  // From the server.
  void sweep();      ///< ends what is overdue
  void tell_stop();  ///< the server stops; finish what is under way
  void cut();        ///< end now
  /// End now, and give the place to another at once.
  void send_away();
  asio::cancellation_slot cancellation_slot() { return cancel_.slot(); }

 private:
  friend class Exchange;
  friend class BodyStream;

  enum class Phase { kHandshake, kIdle, kHead, kExchange, kClosing };
  enum class Answer { kNone, kResponse, kStream, kRaw };

  // connection.cc: the life of the connection.
  asio::awaitable<bool> read_head();
  asio::awaitable<bool> serve();
  asio::awaitable<void> run_handler(Exchange& exchange, const Handler& handler);
  asio::awaitable<bool> finish_answer(Exchange& exchange);
  asio::awaitable<void> finish();
  /// Exchange::admit.
  Status admit(std::string_view who, bool kept);
  bool prepare_request();
  const Route* find_route();
  void refuse(int status, std::string_view code, std::string_view message);
  /// For now: the client is told to try again.
  void refuse_busy(const Error& why);
  void give_up_place();
  void report(std::chrono::steady_clock::time_point began);
  bool keep_alive() const;

  // connection_io.cc: bytes in and out.
  asio::awaitable<IoResult> fill(std::size_t limit);
  asio::awaitable<Result<std::string_view>> read_piece();
  asio::awaitable<bool> read_whole_body(std::uint64_t limit);
  /// Makes sure that a body of this size may be held; false if not, the refusal is then set.
  bool hold_body(std::uint64_t bytes);
  void release_body();
  asio::awaitable<bool> drain_body();
  asio::awaitable<bool> send(std::string_view first, std::string_view second = {});
  asio::awaitable<void> send_response(bool keep);
  void begin_head(int status, std::string_view content_type);
  void add_header(std::string_view name, std::string_view value);
  asio::awaitable<Status> write_chunk(std::string_view chunk);
  bool is_head() const { return request_.method == "HEAD"; }

  // Watching for the client's leaving.
  static asio::awaitable<void> watch(std::shared_ptr<Connection> self);
  void start_watch();
  asio::awaitable<void> settle_watch();
  /// Nobody reads what a stream writes: the client has left, the server stops, or only the head was
  /// asked for.
  bool closed() const { return gone_ || told_stop_ || (answer_ == Answer::kStream && is_head()); }
  void announce_closed();
  asio::awaitable<void> wait_closed();
  void on_closed(std::function<void()> callback);

  std::shared_ptr<ServerState> state_;
  std::list<Connection*>::iterator place_;
  std::shared_ptr<Transport> transport_;
  std::shared_ptr<asio::ssl::context> tls_;
  asio::cancellation_signal cancel_;
  std::string peer_;
  const bool reject_;
  const bool local_;
  std::optional<Room::Place> guest_;  ///< none: it is only there to be told that there is no room
  std::string holder_;                ///< whose the bytes are that its body holds
  std::uint64_t held_ = 0;

  Phase phase_ = Phase::kHandshake;
  InputBuffer input_;
  HeadArena arena_;
  std::optional<RequestParser> parser_;
  Request request_;
  std::string decoded_path_;
  std::deque<std::string> decoded_parameters_;
  std::string out_;  ///< the head, or the small write, being sent

  Answer answer_ = Answer::kNone;
  Response response_;
  int status_ = 0;
  std::uint64_t bytes_out_ = 0;
  bool chunked_ = false;  ///< of the stream being written
  bool stream_writing_ = false;
  Millis body_waited_{0};  ///< for bytes of the request's body
  std::uint64_t body_received_ = 0;
  bool expects_continue_ = false;  ///< and has not been told to go on
  bool body_broken_ = false;       ///< the request's body cannot be read to its end
  bool linger_ = false;            ///< the client may still be sending
  bool timed_out_ = false;
  bool cut_ = false;
  bool gone_ = false;  ///< the client has left, or cannot be written to
  bool told_stop_ = false;

  bool watching_ = false;
  bool watch_stop_ = false;
  asio::steady_timer
      closed_signal_;  ///< cancelled when closed() becomes true, and when the watch ends
  std::vector<std::function<void()>> closed_callbacks_;
};

}  // namespace quad::net
