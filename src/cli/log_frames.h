// cli/log_frames.h
//
// The frames of a job's log, as GET /v1/jobs/ID/logs?cursor= sends them: a line of JSON, and after
// one that says
// {"type": "output", "bytes": N} that many bytes of output. A parser that is fed whatever pieces
// the network brings and gives whole frames only, and the place that a reader has reached by them,
// with which it goes on after it lost the server: what came of a frame that broke off is dropped,
// and comes again. Pure.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"

namespace quad::cli {

class LogFrames {
 public:
  /// Gets a frame's head, and for "output" its bytes. False ends the reading.
  using Sink = std::function<bool(const json::object& head, std::string_view bytes)>;

  /// Takes a piece. False if the sink wants no more; kInternal for what is no frame.
  Result<bool> feed(std::string_view piece, const Sink& sink);

 private:
  std::string head_text_;  ///< a head whose end has not come yet
  json::object head_;
  std::string body_;        ///< of an output frame whose end has not come yet
  std::uint64_t left_ = 0;  ///< bytes of it still to come
};

/// Where a reader is, kept up to date by what it has been given.
class LogPlace {
 public:
  void see_attempt(const json::object& head);
  void see_output(const json::object& head);
  [[nodiscard]] bool known() const { return attempt_ > 0; }
  /// "2:0=1234,1=880", for `cursor=`.
  [[nodiscard]] std::string text() const;

 private:
  std::int64_t attempt_ = 0;
  std::map<std::int64_t, std::int64_t> offsets_;
};

}  // namespace quad::cli
