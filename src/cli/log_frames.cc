#include "cli/log_frames.h"

#include <fmt/format.h>

#include <algorithm>

namespace quad::cli {

namespace {
constexpr std::size_t kLongestHead = 1U << 20U;
constexpr std::int64_t kLongestBody = 64LL << 20U;
}  // namespace

Result<bool> LogFrames::feed(std::string_view piece, const Sink& sink) {
  while (!piece.empty()) {
    if (left_ > 0) {
      const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(left_, piece.size()));
      left_ -= count;
      std::string_view body = piece.substr(0, count);
      piece.remove_prefix(count);
      if (left_ > 0 || !body_.empty()) {
        body_ += body;
        body = body_;
      }
      if (left_ == 0) {
        const bool more = sink(head_, body);
        body_.clear();
        if (!more) {
          return false;
        }
      }
      continue;
    }
    const std::size_t end = piece.find('\n');
    head_text_ += piece.substr(0, end);
    if (head_text_.size() > kLongestHead) {
      return error(ErrorCode::kInternal, "The server's log has a frame without an end");
    }
    if (end == std::string_view::npos) {
      return true;
    }
    piece.remove_prefix(end + 1);
    auto head = parse_json_object(head_text_);
    if (!head.ok()) {
      return error(ErrorCode::kInternal, fmt::format("The server's log has a frame that cannot be "
                                                     "read: {}",
                                                     head.error().message));
    }
    head_ = std::move(*head);
    head_text_.clear();
    if (get_string(head_, "type") == "output") {
      const std::int64_t bytes = get_int(head_, "bytes");
      if (bytes < 0 || bytes > kLongestBody) {
        return error(ErrorCode::kInternal, "The server's log has a frame of an absurd size");
      }
      left_ = static_cast<std::uint64_t>(bytes);
    } else if (!sink(head_, {})) {
      return false;
    }
  }
  return true;
}

void LogPlace::see_attempt(const json::object& head) {
  attempt_ = get_int(head, "attempt");
  offsets_.clear();
  if (const auto* places = get_array(head, "places")) {
    for (const json::value& place : *places) {
      if (place.is_array() && place.get_array().size() == 2 && place.get_array()[0].is_int64() &&
          place.get_array()[1].is_int64()) {
        offsets_[place.get_array()[0].get_int64()] = place.get_array()[1].get_int64();
      }
    }
  }
}

void LogPlace::see_output(const json::object& head) {
  attempt_ = get_int(head, "attempt");
  offsets_[get_int(head, "rank")] = get_int(head, "next");
}

std::string LogPlace::text() const {
  std::string text = fmt::format("{}:", attempt_);
  bool first = true;
  for (const auto& [rank, offset] : offsets_) {
    if (offset > 0) {
      text += fmt::format("{}{}={}", first ? "" : ",", rank, offset);
      first = false;
    }
  }
  return text;
}

}  // namespace quad::cli
