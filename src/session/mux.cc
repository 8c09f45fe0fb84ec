#include "session/mux.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace quad::session {
namespace {

constexpr std::size_t kNumber = 4;

std::string number(std::uint32_t value) {
  std::string bytes(kNumber, '\0');
  for (std::size_t i = 0; i < kNumber; ++i) {
    bytes[i] = static_cast<char>((value >> (8U * i)) & 0xFFU);
  }
  return bytes;
}

std::uint32_t number_at(std::string_view bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < kNumber; ++i) {
    value |= static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[at + i])) << (8U * i);
  }
  return value;
}

}  // namespace

int exit_code_of(const json::object& message) {
  constexpr std::int64_t kMostCode = 255;
  const std::int64_t code = get_int(message, "code", 1);
  return code < 0 || code > kMostCode ? 1 : static_cast<int>(code);
}

void Mux::open(StreamId id) {
  streams_.emplace(id, Stream{window_, window_, window_, 0});
}

void Mux::put(char type, StreamId id, std::string_view rest) {
  outgoing_ += runner::encode_frame(type, number(id) + std::string(rest));
}

void Mux::say(const json::object& message) {
  outgoing_ += runner::encode_message(message);
}

std::size_t Mux::room(StreamId id) const {
  const auto it = streams_.find(id);
  return it == streams_.end() ? 0 : std::min<std::uint64_t>(it->second.may_send, kPiece);
}

void Mux::send(StreamId id, std::string_view bytes) {
  const auto it = streams_.find(id);
  QUAD_CHECK(it != streams_.end() && bytes.size() <= it->second.may_send,
             "more is sent on a session's stream than its window has room for");
  it->second.may_send -= bytes.size();
  put(kDataFrame, id, bytes);
}

void Mux::end(StreamId id) {
  put(kEndFrame, id, {});
}

void Mux::cut(StreamId id) {
  put(kCutFrame, id, {});
  close(id);
}

void Mux::taken(StreamId id, std::size_t bytes) {
  const auto it = streams_.find(id);
  if (it == streams_.end()) {
    return;
  }
  it->second.taken += bytes;
  // Not for every byte: half a window at a time keeps the other end busy all the same.
  if (it->second.taken >= it->second.window / 2) {
    const auto more = static_cast<std::uint32_t>(std::exchange(it->second.taken, 0));
    it->second.may_come += more;
    put(kWindowFrame, id, number(more));
  }
}

void Mux::sent(std::size_t bytes) {
  sent_ += bytes;
  if (sent_ == outgoing_.size()) {
    outgoing_.clear();
    sent_ = 0;
  } else if (sent_ > kPiece * 4) {
    outgoing_.erase(0, std::exchange(sent_, 0));
  }
}

Result<Mux::Happening> Mux::take(const runner::FrameView& frame) {
  if (frame.type == runner::kJsonFrame) {
    QUAD_ASSIGN(json::object message, runner::decode_message(frame.payload));
    return Happening(std::move(message));
  }
  if (frame.payload.size() < kNumber) {
    return error(ErrorCode::kInvalid, "A session's frame is shorter than the number of its stream");
  }
  const StreamId id = number_at(frame.payload, 0);
  const auto it = streams_.find(id);
  if (it == streams_.end()) {
    return Happening(Nothing{});
  }
  Stream& stream = it->second;
  switch (frame.type) {
    case kDataFrame: {
      const std::string_view bytes = frame.payload.substr(kNumber);
      if (bytes.size() > stream.may_come) {
        return error(ErrorCode::kInvalid,
                     fmt::format("Stream {} of a session was sent beyond its window", id));
      }
      stream.may_come -= bytes.size();
      return Happening(Data{id, bytes});
    }
    case kEndFrame:
      return Happening(Ended{id});
    case kCutFrame:
      close(id);
      return Happening(Cut{id});
    case kWindowFrame:
      if (frame.payload.size() != 2 * kNumber) {
        return error(ErrorCode::kInvalid, "A session's window frame has no number of bytes");
      }
      stream.may_send += number_at(frame.payload, kNumber);
      if (stream.may_send > stream.window) {
        return error(ErrorCode::kInvalid,
                     fmt::format("Stream {} of a session was given more than its window", id));
      }
      return Happening(Nothing{});
    default:
      return error(ErrorCode::kInvalid, "A session's frame has an unknown type");
  }
}

}  // namespace quad::session
