// cli/follow.h
//
// Following a job's output or the events for longer than a server lives: when the connection
// breaks, the follower waits for the server, goes on from its cursor, and prints nothing twice. One
// thread; blocks; prints to standard output.

#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "cli/client.h"

namespace quad::cli {

/// Takes the framed body of GET /v1/jobs/{id}/logs?cursor= in whatever pieces it comes. A frame
/// counts once it is whole: what a broken connection left of one comes again.
class LogFrames {
 public:
  /// Calls `sink` with the bytes of each frame that becomes whole; false if it returned false.
  /// kInvalid for what is no frame.
  Result<bool> feed(std::string_view piece, const std::function<bool(std::string_view)>& sink);
  /// Where to go on: "start" before the first frame.
  [[nodiscard]] const std::string& cursor() const { return cursor_; }
  /// The connection broke: forgets the frame under way.
  void restart() { held_.clear(); }

 private:
  std::string held_;
  std::string cursor_ = "start";
};

/// Prints a job's output. `query`: what is asked of it besides, "&rank=0…". With `follow`, until
/// the job is over.
Status print_log(const Globals& globals, Client& client, std::int64_t job, const std::string& query,
                 bool follow);

struct EventQuery {
  std::int64_t after = 0;
  std::string filter;  ///< "&job=7…"
  bool follow = false;
};
/// Gives each event to `print`, oldest first.
Status print_events(const Globals& globals, Client& client, const EventQuery& query,
                    const std::function<void(const json::object&)>& print);

}  // namespace quad::cli
