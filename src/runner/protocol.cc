#include "runner/protocol.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace quad::runner {
namespace {

template <typename Integer>
void put_little_endian(char* to, Integer value) {
  for (std::size_t i = 0; i < sizeof value; ++i) {
    to[i] = static_cast<char>((value >> (8U * i)) & 0xFFU);
  }
}

template <typename Integer>
Integer get_little_endian(const char* from) {
  Integer value = 0;
  for (std::size_t i = 0; i < sizeof value; ++i) {
    value |= static_cast<Integer>(static_cast<unsigned char>(from[i])) << (8U * i);
  }
  return value;
}

void put_header(char* to, char type, std::size_t payload) {
  QUAD_CHECK(payload <= kMaxPayload, "a frame's payload is larger than the protocol allows");
  put_little_endian(to, static_cast<std::uint32_t>(payload));
  to[4] = type;
}

}  // namespace

std::string encode_frame(char type, std::string_view payload) {
  std::string frame(kFrameHeader, '\0');
  frame.reserve(kFrameHeader + payload.size());
  put_header(frame.data(), type, payload.size());
  frame.append(payload);
  return frame;
}

std::string encode_message(const json::object& message) {
  return encode_frame(kJsonFrame, to_text(message));
}

std::array<char, kLogHeader> encode_log_header(std::uint64_t offset, std::size_t size) {
  std::array<char, kLogHeader> header{};
  put_header(header.data(), kLogFrame, size + sizeof offset);
  put_little_endian(header.data() + kFrameHeader, offset);
  return header;
}

std::string encode_log(std::uint64_t offset, std::string_view bytes) {
  const auto header = encode_log_header(offset, bytes.size());
  std::string frame;
  frame.reserve(header.size() + bytes.size());
  frame.append(header.data(), header.size());
  frame.append(bytes);
  return frame;
}

std::string encode_ack(std::uint64_t offset) {
  char payload[sizeof offset];
  put_little_endian(payload, offset);
  return encode_frame(kAckFrame, {payload, sizeof payload});
}

Result<LogChunk> decode_log(std::string_view payload) {
  if (payload.size() < sizeof(std::uint64_t)) {
    return error(ErrorCode::kInvalid, "A log frame is shorter than its offset");
  }
  const auto offset = get_little_endian<std::uint64_t>(payload.data());
  if (offset > kLargestLogOffset) {
    return error(ErrorCode::kInvalid, fmt::format("A log frame has the offset {}", offset));
  }
  return LogChunk{offset, payload.substr(sizeof(std::uint64_t))};
}

Result<std::uint64_t> decode_ack(std::string_view payload) {
  if (payload.size() != sizeof(std::uint64_t)) {
    return error(ErrorCode::kInvalid,
                 fmt::format("An acknowledgement has {} bytes, not 8", payload.size()));
  }
  return get_little_endian<std::uint64_t>(payload.data());
}

Result<json::object> decode_message(std::string_view payload) {
  QUAD_ASSIGN(json::object message, parse_json_object(payload));
  if (get_string(message, "type").empty()) {
    return error(ErrorCode::kInvalid, "A message has no \"type\"");
  }
  return message;
}

RankKey rank_key_of(const json::object& message) {
  return {JobId(get_int(message, "job")),
          Epoch(static_cast<std::int32_t>(get_int(message, "epoch"))),
          Rank(static_cast<std::int32_t>(get_int(message, "rank", -1)))};
}

namespace {
constexpr std::size_t kKeptRoom = 8U << 10U;
}  // namespace

void FrameReader::feed(std::string_view bytes) {
  std::memcpy(room(bytes.size()), bytes.data(), bytes.size());
  commit(bytes.size());
}

char* FrameReader::room(std::size_t at_least) {
  if (begin_ == end_) {
    begin_ = end_ = 0;
    if (at_least <= kKeptRoom && buffer_.size() > kKeptRoom) {
      buffer_ = std::string();  // what a flood needed
    }
  }
  if (buffer_.size() - end_ < at_least && begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  if (buffer_.size() - end_ < at_least) {
    buffer_.resize(std::max(end_ + at_least, std::min(2 * buffer_.size(), kMaxPayload)));
  }
  return buffer_.data() + end_;
}

Result<std::optional<FrameView>> FrameReader::next_view() {
  if (end_ - begin_ < kFrameHeader) {
    return std::optional<FrameView>();
  }
  const char* at = buffer_.data() + begin_;
  const auto length = get_little_endian<std::uint32_t>(at);
  const char type = at[4];
  if (types_.find(type) == std::string_view::npos) {
    return error(ErrorCode::kInvalid,
                 fmt::format("A frame has the unknown type {}; {} are known",
                             static_cast<int>(static_cast<unsigned char>(type)), types_));
  }
  if (length > kMaxPayload) {
    return error(
        ErrorCode::kInvalid,
        fmt::format("A frame of {} bytes is longer than the {} allowed", length, kMaxPayload));
  }
  if (end_ - begin_ < kFrameHeader + length) {
    return std::optional<FrameView>();
  }
  begin_ += kFrameHeader + length;
  return std::optional<FrameView>(FrameView{type, {at + kFrameHeader, length}});
}

Result<std::optional<Frame>> FrameReader::next() {
  QUAD_ASSIGN(const std::optional<FrameView> view, next_view());
  if (!view.has_value()) {
    return std::optional<Frame>();
  }
  return std::optional<Frame>(Frame{view->type, std::string(view->payload)});
}

void FrameReader::reset() {
  begin_ = end_ = 0;
}

}  // namespace quad::runner
