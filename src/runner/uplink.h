// runner/uplink.h
//
// What a rank tells the server, over whatever connections there are in its life: messages that are
// kept until they are acknowledged and sent again after a reconnect, in order; the output from the
// spool; and reports of which only the newest counts. Owned by the runner's one thread; nothing
// here blocks.
//
// Always holds: hello is the first message on each connection; every output byte below what was
// acknowledged is dropped, and none above it that is still held is skipped; the last message
// (exited) follows all output, unless sending that takes longer than 10 s.

#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/time.h"
#include "runner/connection.h"
#include "runner/spool.h"

namespace quad::runner {

class Uplink {
 public:
  /// `hello` gives the first message of a connection.
  Uplink(ConnectionOptions options, Spool& spool, std::function<json::object()> hello)
      : connection_(std::move(options)), spool_(spool), hello_(std::move(hello)) {}

  // For the loop.
  void tick(MonoTime now);
  [[nodiscard]] int fd() const { return connection_.fd(); }
  [[nodiscard]] short events() const { return connection_.events(wants_to_send()); }
  void on_ready(MonoTime now);
  /// Sends what there is to send, as far as it goes.
  void pump(MonoTime now);
  /// When tick() is to be called next.
  [[nodiscard]] std::optional<MonoTime> next_tick() const;

  /// The next message from the server, other than acknowledgements.
  std::optional<json::object> next_message(MonoTime now);

  /// A message that is kept until it is acknowledged.
  void post(json::object message);
  /// A sentence for the job's story; kept likewise.
  void note(std::string_view kind, std::string_view message);
  /// The same for the one that ends it all.
  void post_last(json::object message, MonoTime now);
  /// A message that is lost when there is no connection.
  void tell(const json::object& message);
  /// To be called before output is committed to the spool, which may drop what is just being sent.
  void before_append();

  [[nodiscard]] const Connection& connection() const { return connection_; }
  [[nodiscard]] bool all_acknowledged() const { return kept_.empty() && !last_.has_value(); }
  /// Output bytes that wait to be sent.
  [[nodiscard]] std::uint64_t backlog() const { return spool_.end() - send_offset_; }

 private:
  struct Kept {
    std::uint64_t seq = 0;
    std::string frame;
  };

  [[nodiscard]] bool wants_to_send() const;
  void on_open();
  void queue_gap();
  void take_acknowledged(std::uint64_t offset);
  bool send_control(MonoTime now);
  bool send_log(MonoTime now);

  Connection connection_;
  Spool& spool_;
  std::function<json::object()> hello_;
  bool was_open_ = false;
  std::deque<Kept> kept_;
  std::uint64_t next_seq_ = 1;
  std::optional<json::object> last_;  // waits for the output
  MonoTime last_at_latest_{0};

  // Of the present connection.
  std::string control_;  // whole frames, from control_sent_ on
  std::size_t control_sent_ = 0;
  std::uint64_t send_offset_ = 0;  // the next output byte to send
  std::string frame_header_;       // what is left of the present log frame: header, …
  std::uint64_t frame_end_ = 0;    // … and output up to here
  std::string frame_rest_;         // … or these bytes, when the spool may drop them
  std::optional<Gap> told_gap_;
  std::vector<iovec> pieces_;
};

}  // namespace quad::runner
