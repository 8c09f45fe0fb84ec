// runner/standing_worker.h
//
// A worker that is to be at work for as long as its rank lives, such as a watch: begun at a given
// time, and begun again five seconds after it ended or could not be started. Owned by the runner's
// one thread; the header of worker.h holds here too.

#pragma once

#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/time.h"
#include "runner/worker.h"

namespace quad::runner {

class StandingWorker {
 public:
  explicit StandingWorker(std::function<void(const WorkerOutput&)> work) : work_(std::move(work)) {}

  /// It is to begin at `at`.
  void begin_at(MonoTime at) { due_ = at; }
  /// Asks it to come to an end, for good: it is over when fd() is -1. Begins it first if it is not
  /// at work. Its pauses (WorkerOutput::pause) end at once.
  void finish(MonoTime now);
  /// Kills it, for good.
  void end();

  /// When tick() is to be called next.
  [[nodiscard]] std::optional<MonoTime> due() const { return due_; }
  void tick(MonoTime now);
  /// To be polled for reading; -1 while it is not at work.
  [[nodiscard]] int fd() const { return worker_.fd(); }
  /// The messages that have come.
  std::vector<json::object> receive(MonoTime now);

 private:
  std::function<void(const WorkerOutput&)> work_;
  Worker worker_;
  std::optional<MonoTime> due_;
  bool finishing_ = false;
};

}  // namespace quad::runner
