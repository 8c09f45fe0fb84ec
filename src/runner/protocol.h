// runner/protocol.h
//
// The frames between a runner and the server (docs/runner-protocol.md), for both ends: how they are
// written, and an incremental reader. A frame is `u32 little-endian payload length, u8 type,
// payload`; the length does not count the type. Pure, any thread (one thread for each FrameReader).
// O(bytes); payloads are not copied when views are used.
//
// Always holds: a reader never buffers more than one frame beyond what it was fed, and a frame that
// is too long or of an unknown type is an error (kInvalid) after which the connection must be
// dropped.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/ids.h"
#include "base/json.h"
#include "base/result.h"

namespace quad::runner {

inline constexpr std::size_t kMaxPayload = 4U << 20U;
inline constexpr std::size_t kFrameHeader = 5;
inline constexpr std::size_t kLogHeader =
    kFrameHeader + 8;  ///< frame header and the output's offset
inline constexpr std::string_view kUpgradeProtocol = "quad-runner/1";

inline constexpr char kJsonFrame = 'J';
inline constexpr char kLogFrame = 'L';
/// In bytes of a rank's output: more than any prints, and far from where sums of offsets overflow.
inline constexpr std::uint64_t kLargestLogOffset = 1ULL << 60U;
inline constexpr char kAckFrame = 'A';
inline constexpr std::string_view kRunnerFrames = "JLA";  ///< the types of a runner's connection

struct Frame {
  char type = kJsonFrame;
  std::string payload;
};

/// A frame inside the reader's buffer: valid until the reader is fed or asked again.
struct FrameView {
  char type = kJsonFrame;
  std::string_view payload;
};

/// Any frame. The payload must be at most kMaxPayload.
std::string encode_frame(char type, std::string_view payload);
/// A `J` frame with one message.
std::string encode_message(const json::object& message);
/// An `L` frame.
std::string encode_log(std::uint64_t offset, std::string_view bytes);
/// Only the first bytes of an `L` frame, to be sent before `size` bytes of output (scatter and
/// gather).
std::array<char, kLogHeader> encode_log_header(std::uint64_t offset, std::size_t size);
/// An `A` frame: every output byte below `offset` may be dropped.
std::string encode_ack(std::uint64_t offset);

/// The payload of an `L` frame.
struct LogChunk {
  std::uint64_t offset = 0;
  std::string_view bytes;
};
Result<LogChunk> decode_log(std::string_view payload);
/// The payload of an `A` frame.
Result<std::uint64_t> decode_ack(std::string_view payload);
/// The payload of a `J` frame: an object with a `type`.
Result<json::object> decode_message(std::string_view payload);

/// The `job`, `epoch` and `rank` of a message; rank -1 where there is none.
RankKey rank_key_of(const json::object& message);

/// Takes bytes as they come and gives frames. Either feed() copies of what was received, or receive
/// into room() and commit().
class FrameReader {
 public:
  /// `types`: those that the protocol on this connection has; the text must outlive the reader.
  explicit FrameReader(std::string_view types = kRunnerFrames) : types_(types) {}

  void feed(std::string_view bytes);

  /// At least `at_least` writable bytes at the end of the buffer; invalidates views. Who asks for
  /// little gives back what a larger buffer took.
  char* room(std::size_t at_least);
  void commit(std::size_t count) { end_ += count; }
  [[nodiscard]] std::size_t room_size() const { return buffer_.size() - end_; }

  /// The next whole frame; nullopt when more bytes are needed.
  Result<std::optional<FrameView>> next_view();
  /// The same, copied.
  Result<std::optional<Frame>> next();

  /// Forgets everything: for a new connection.
  void reset();
  [[nodiscard]] std::size_t buffered() const { return end_ - begin_; }

 private:
  std::string_view types_;
  std::string buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

}  // namespace quad::runner
