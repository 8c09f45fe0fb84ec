// session/pump.h
//
// One end of a session at work: carries bytes between descriptors of this process and the streams
// of a connection (mux.h), and messages beside them. Built around poll(); owned by one thread, and
// nothing in it blocks but the waiting in step().
//
// Always holds: of each stream at most a window's worth is held, and a descriptor is read only as
// far as there is room to send; a stream's end is told when its descriptor has ended, and a
// descriptor gets its end when all that came before it was written. A reader that is gone (EPIPE)
// cuts the stream, so that whoever writes at the other end gets a SIGPIPE as in any pipe. An end
// that asks for more answers than it takes is an error too.

#pragma once

#include <poll.h>
#include <signal.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/result.h"
#include "base/time.h"
#include "session/mux.h"

namespace quad::session {

/// How long an end that watches over its connection waits without a byte before it asks, how long
/// for an answer then, and how long without a byte of any stream before it gives up.
inline constexpr Millis kQuiet{15'000};
inline constexpr Millis kAnswer{30'000};
inline constexpr Millis kIdle{24 * 3'600'000};

/// The connection under a session, once it is open. Never blocks.
class Carrier {
 public:
  virtual ~Carrier() = default;
  [[nodiscard]] virtual int fd() const = 0;
  /// Takes what has come into frames(); an error says that the connection is over, and why.
  virtual Status receive() = 0;
  virtual runner::FrameReader& frames() = 0;
  /// Sends as much as goes.
  virtual Result<std::size_t> send(std::string_view bytes) = 0;
  /// Whether something has come that poll() cannot see.
  [[nodiscard]] virtual bool buffered() const = 0;
};

/// What a stream is connected to here.
struct LocalEnd {
  enum class Kind : std::uint8_t {
    kPipe,
    kSocket,    ///< both ways: an end of one half is a shutdown, a cut a reset
    kTerminal,  ///< the master of a PTY: its end is ^D
  };
  UniqueFd from;  ///< what is read here goes out; none if the stream only comes in
  UniqueFd to;    ///< what comes in is written here
  Kind kind = Kind::kPipe;
  /// The descriptors are shared with others (this program's own standard streams), so they stay in
  /// blocking mode, and are written to in pieces that do not block.
  bool borrowed = false;
};

class Pump {
 public:
  Pump(Carrier& carrier, std::uint32_t window) : carrier_(carrier), mux_(window) {}
  /// Of streams that are attached from now on.
  void set_window(std::uint32_t window) { mux_.set_window(window); }

  void attach(StreamId id, LocalEnd end);
  [[nodiscard]] bool has(StreamId id) const { return ends_.contains(id); }
  [[nodiscard]] std::size_t streams() const { return ends_.size(); }
  /// Ends the stream at once, here and there.
  void cut(StreamId id);
  /// Closes this end's descriptors of a stream; nothing is told, as nobody is left to be told.
  void forget(StreamId id) { drop(id, false); }
  void say(const json::object& message) { mux_.say(message); }

  /// From now on a connection on which nothing arrives any more is over, as step() then says,
  /// though nobody has closed it: when nothing has come for a while the other end is asked
  /// ("ping"), which every Pump answers ("pong"). Only an end that has answered before is held to
  /// it: an older one does not know the question. For the client: a rank's end waits for one that
  /// stands still.
  void watch_over(const Clock& clock, Millis quiet = kQuiet, Millis answer = kAnswer,
                  Millis idle = kIdle);

  /// Called for each message of the other end.
  std::function<void(const json::object&)> on_message;

  /// One round: waits, at most `timeout`, for any of this pump's descriptors, for `more`, whose
  /// revents are set, or for a signal that `unblocked` lets through, and does what can be done. An
  /// error says that the connection is over. It comes once: rounds after it only write here what
  /// had come.
  Status step(std::vector<pollfd>& more, Millis timeout, const sigset_t* unblocked = nullptr);

  /// The last that the other end gets to hear, as it does not keep to the protocol or to its time:
  /// this message, and the end. step() then only waits until it has taken that.
  void dismiss(const json::object& message);

  /// Whether everything that was to be sent has been.
  [[nodiscard]] bool flushed() const { return mux_.outgoing().empty(); }
  /// Whether anything can still come from this end's descriptor of the stream.
  [[nodiscard]] bool reads(StreamId id) const;
  /// Whether something waits to be read there.
  [[nodiscard]] bool readable(StreamId id) const;
  /// Whether bytes that came on a stream still wait to be written here.
  [[nodiscard]] bool holds_bytes() const;
  /// Bytes that were read here or have come, so far: to see whether anything moves.
  [[nodiscard]] std::uint64_t moved() const { return moved_; }
  /// Stops reading from this end's descriptor, as if it had ended.
  void end_reading(StreamId id);

 private:
  struct End {
    LocalEnd local;
    std::string pending;  // came, and is still to be written
    std::size_t written = 0;
    bool regular = false;   // a file: never blocks
    bool end_came = false;  // nothing comes after `pending`
    bool end_told = false;  // nothing is read here any more
    bool gave_end = false;  // `to` has got its end
  };
  using Ends = std::map<StreamId, End>;

  struct Watch {
    const Clock& clock;
    Millis quiet, answer, idle;
    MonoTime heard;                 ///< when something came
    std::optional<MonoTime> asked;  ///< and nothing has come since
    bool answers = false;           ///< it has, once
    std::uint64_t moved = 0;
    MonoTime moved_at;
  };

  Status flush();
  Status exchange(bool has_come);
  void ask();
  /// When step() must look at the watch again, counted from now.
  [[nodiscard]] Millis until_look(MonoTime now) const;
  Status look(bool has_come);
  Status see_off(bool has_come);
  Status take_frames();
  void read_from(StreamId id, End& end);
  /// False if the stream is broken.
  bool write_to(StreamId id, End& end);
  void give_end(End& end);
  /// Forgets the stream if both its directions are over.
  void settle(StreamId id);
  void drop(StreamId id, bool reset);

  Carrier& carrier_;
  Mux mux_;
  Ends ends_;
  bool over_ = false;       // the connection is
  bool dismissed_ = false;  // nothing more is taken from the other end
  std::optional<Watch> watch_;
  std::vector<char> buffer_ = std::vector<char>(kPiece);
  std::uint64_t moved_ = 0;
};

}  // namespace quad::session
