// session/mux.h
//
// What both ends of a session speak (docs/runner-protocol.md, "Sessions"): JSON messages and
// numbered streams of bytes over one connection, in frames. Each direction of a stream has a
// window: who sends stops when it is used up, and gets room again as the other end's reader takes
// bytes. So the connection itself is always read, whoever is slow, and a client that is gone is
// noticed at once, however full its streams are. Pure; one thread.
//
// Always holds: an end keeps at most `window` unread bytes of a stream, as a peer that sends beyond
// its window is an error (kInvalid), after which the connection must be dropped. Frames of a stream
// that is not open here change nothing, as it may have been closed while they were under way.

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>

#include "base/json.h"
#include "base/result.h"
#include "runner/protocol.h"

namespace quad::session {

using StreamId = std::uint32_t;

inline constexpr std::string_view kUpgradeProtocol = "quad-session/1";
inline constexpr std::string_view kFrames = "JDEXW";
inline constexpr char kDataFrame = 'D';
inline constexpr char kEndFrame = 'E';
inline constexpr char kCutFrame = 'X';
inline constexpr char kWindowFrame = 'W';

/// Of a stream's window: by the kind of session, at both ends. What an end may hold is this times
/// its streams.
inline constexpr std::uint32_t kWindow = 1U << 20U;
inline constexpr std::uint32_t kForwardWindow = 256U << 10U;
/// Of one session.
inline constexpr std::size_t kMostStreams = 128;

/// The longest piece of a stream in a frame.
inline constexpr std::size_t kPiece = 64U << 10U;

/// The exit code that a message tells: 1 if it tells none that a process can have, as an 0 would be
/// a success that nobody has claimed.
int exit_code_of(const json::object& message);

class Mux {
 public:
  explicit Mux(std::uint32_t window) : window_(window) {}
  /// Of streams that are opened from now on.
  void set_window(std::uint32_t window) { window_ = window; }

  /// Both ends must open a stream under the same number, and each number once.
  void open(StreamId id);
  void close(StreamId id) { streams_.erase(id); }

  // What goes out. To be taken from outgoing(), in order.
  void say(const json::object& message);
  /// How many bytes may be sent on a stream now; at most a piece.
  [[nodiscard]] std::size_t room(StreamId id) const;
  void send(StreamId id, std::string_view bytes);
  /// This direction of the stream has ended.
  void end(StreamId id);
  /// The stream is closed at once, in both directions.
  void cut(StreamId id);
  /// So many bytes that came on a stream were taken by whoever reads them.
  void taken(StreamId id, std::size_t bytes);
  [[nodiscard]] std::string_view outgoing() const {
    return std::string_view(outgoing_).substr(sent_);
  }
  void sent(std::size_t bytes);

  // What comes in. Views hold until the frame's do.
  struct Nothing {};
  struct Data {
    StreamId id;
    std::string_view bytes;
  };
  struct Ended {
    StreamId id;
  };
  struct Cut {
    StreamId id;
  };
  using Happening = std::variant<Nothing, Data, Ended, Cut, json::object>;
  Result<Happening> take(const runner::FrameView& frame);

 private:
  struct Stream {
    std::uint32_t window = 0;
    std::uint64_t may_send = 0;
    std::uint64_t may_come = 0;
    std::uint64_t taken = 0;  // and not yet told
  };
  void put(char type, StreamId id, std::string_view rest);

  std::uint32_t window_;
  std::map<StreamId, Stream> streams_;
  std::string outgoing_;
  std::size_t sent_ = 0;
};

}  // namespace quad::session
