// runner/resumption.h
//
// Where a rank resumes from, found before anything else is done: rank 0 of a later attempt raises
// the fence, waits behind it, picks the newest valid checkpoint and brings it forward; rank 0 of a
// first attempt has only its folder to make; the other ranks have nothing to find. The storage is
// touched by workers (resume.h), but for the making of that folder. Owned by the runner's one
// thread; nothing here blocks.
//
// Each call that may move it on says what has come of it: at most one of all of them is not
// "nothing yet".

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/time.h"
#include "runner/errand.h"
#include "runner/order.h"
#include "runner/start.h"

namespace quad::runner {

/// Rank 0's answer; for the others it is empty.
struct Resumed {
  std::string path;  ///< empty: there is nothing to resume from
  std::int64_t step = -1;
  std::string note;
};

/// A newer attempt has raised the fence.
struct TakenOver {
  std::int64_t by = 0;  ///< its epoch
};

/// The rank cannot start, in a sentence.
struct CannotResume {
  std::string why;
};

class Resumption {
 public:
  using Outcome = std::variant<std::monostate, Resumed, TakenOver, CannotResume>;

  /// Both must outlive it.
  Resumption(const Start& start, const Order& order) : start_(start), order_(order) {}

  Outcome begin();
  /// Every rank of earlier attempts is dead for certain: there is nothing more to wait for. Its
  /// effect comes with the next tick().
  void end_wait(MonoTime now);
  Outcome tick(MonoTime now);
  /// When tick() is to be called next.
  [[nodiscard]] std::optional<MonoTime> due() const { return waits_until_; }
  /// To be polled for reading; -1 while no worker is at work.
  [[nodiscard]] int fd() const { return errand_.fd(); }
  Outcome receive(MonoTime now);
  /// Gives up.
  void kill();

 private:
  const Start& start_;
  const Order& order_;
  Errand errand_{"The search for a checkpoint"};
  bool wait_ended_ = false;
  std::optional<MonoTime> waits_until_;  // behind the raised fence
};

}  // namespace quad::runner
