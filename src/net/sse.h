// net/sse.h
//
// Server-sent events, both ends: the text of an event, and a parser that is fed whatever pieces the
// network brings. Pure, any thread. An event of at most `max_event_bytes` is parsed; a longer one
// is an error, since it would otherwise grow without a bound.

#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace quad::net {

struct SseEvent {
  std::string
      id;  ///< the cursor to come back with (Last-Event-ID); the parser repeats the last one seen
  std::string event;  ///< kind; "message" if the sender gave none
  std::string data;
};

inline constexpr std::string_view kSseContentType = "text/event-stream";
/// A comment line, which clients ignore: keeps a silent stream open.
inline constexpr std::string_view kSseHeartbeat = ":\n\n";

/// Appends the text of one event. Newlines in `data` become several data lines; in `id` and `event`
/// they are dropped. An empty `id` or `event` is left out.
void append_sse(std::string& out, std::string_view id, std::string_view event,
                std::string_view data);

class SseParser {
 public:
  explicit SseParser(std::size_t max_event_bytes = 4U << 20U) : limit_(max_event_bytes) {}

  /// Takes a piece and calls `sink` for each event that it completes. False if the sink asked to
  /// stop by returning false. kExhausted past the bound.
  Result<bool> feed(std::string_view piece, const std::function<bool(const SseEvent&)>& sink);
  /// The id of the last event seen: where to resume.
  [[nodiscard]] const std::string& last_id() const { return event_.id; }

 private:
  bool line(std::string_view text, const std::function<bool(const SseEvent&)>& sink);

  std::size_t limit_;
  std::string partial_;        ///< a line whose end has not come yet
  bool skip_newline_ = false;  ///< the last piece ended in '\r', whose '\n' may follow
  bool at_start_ = true;
  bool has_data_ = false;
  SseEvent event_;
};

}  // namespace quad::net
