#include "net/sse.h"

namespace quad::net {

namespace {

void append_without_newlines(std::string& out, std::string_view text) {
  for (const char c : text) {
    if (c != '\n' && c != '\r' && c != '\0') {
      out.push_back(c);
    }
  }
}

}  // namespace

void append_sse(std::string& out, std::string_view id, std::string_view event,
                std::string_view data) {
  out.reserve(out.size() + id.size() + event.size() + data.size() + 24);
  if (!id.empty()) {
    out += "id: ";
    append_without_newlines(out, id);
    out += '\n';
  }
  if (!event.empty()) {
    out += "event: ";
    append_without_newlines(out, event);
    out += '\n';
  }
  while (true) {
    const auto end = data.find_first_of("\r\n");
    out += "data: ";
    out += data.substr(0, end);
    out += '\n';
    if (end == std::string_view::npos) {
      break;
    }
    const bool pair = data[end] == '\r' && end + 1 < data.size() && data[end + 1] == '\n';
    data.remove_prefix(end + (pair ? 2 : 1));
  }
  out += '\n';
}

Result<bool> SseParser::feed(std::string_view piece,
                             const std::function<bool(const SseEvent&)>& sink) {
  while (!piece.empty()) {
    if (skip_newline_) {
      skip_newline_ = false;
      if (piece.front() == '\n') {
        piece.remove_prefix(1);
        continue;
      }
    }
    const auto end = piece.find_first_of("\r\n");
    const auto part = piece.substr(0, end);
    if (partial_.size() + part.size() + event_.data.size() > limit_) {
      return error(ErrorCode::kExhausted,
                   "The server sent an event of more than " + std::to_string(limit_) + " bytes.");
    }
    if (end == std::string_view::npos) {
      partial_ += part;
      return true;
    }
    skip_newline_ = piece[end] == '\r';
    piece.remove_prefix(end + 1);
    bool more = true;
    if (partial_.empty()) {
      more = line(part, sink);
    } else {
      partial_ += part;
      const std::string whole = std::move(partial_);
      partial_.clear();
      more = line(whole, sink);
    }
    if (!more) {
      return false;
    }
  }
  return true;
}

bool SseParser::line(std::string_view text, const std::function<bool(const SseEvent&)>& sink) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (at_start_) {
    at_start_ = false;
    if (text.starts_with(kByteOrderMark)) {
      text.remove_prefix(kByteOrderMark.size());
    }
  }
  if (text.empty()) {
    bool more = true;
    if (has_data_) {
      event_.data.pop_back();  // the newline behind the last data line
      if (event_.event.empty()) {
        event_.event = "message";
      }
      more = sink(event_);
    }
    has_data_ = false;
    event_.event.clear();
    event_.data.clear();
    return more;
  }
  const auto colon = text.find(':');
  if (colon == 0) {
    return true;  // a comment
  }
  const auto name = text.substr(0, colon);
  auto value = colon == std::string_view::npos ? std::string_view{} : text.substr(colon + 1);
  if (value.starts_with(' ')) {
    value.remove_prefix(1);
  }
  if (name == "data") {
    event_.data += value;
    event_.data += '\n';
    has_data_ = true;
  } else if (name == "event") {
    event_.event = value;
  } else if (name == "id" && value.find('\0') == std::string_view::npos) {
    event_.id = value;
  }
  return true;
}

}  // namespace quad::net
