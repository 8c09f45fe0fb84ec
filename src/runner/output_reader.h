// runner/output_reader.h
//
// Moves a rank's output from its pipe into the spool, and decides when the pipe may be left to
// fill. A rank that prints faster than its output can be stored would otherwise send every byte
// over the disk, ever further ahead of who follows it; and it may not be held up by a server that
// is slow or hangs. So while memory is full output waits, with a patience that the server earns by
// what it takes, and never while anything is spooled. Owned by the runner's one thread; nothing
// here blocks but the spool's own writes.

#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/time.h"
#include "runner/process.h"
#include "runner/spool.h"
#include "runner/uplink.h"

namespace quad::runner {

class OutputReader {
 public:
  OutputReader(Spool& spool, Uplink& uplink);

  /// Whether output is to wait in the pipe now.
  [[nodiscard]] bool holds_back(MonoTime now);
  /// When it will wait no longer, if it waits.
  [[nodiscard]] std::optional<MonoTime> holds_back_until(MonoTime now) const;
  /// Reads what is there: a bounded piece of it while the rank lives, all of it afterwards. At its
  /// end the pipe is closed.
  void read(RankProcess& rank, MonoTime now);
  /// From here on nothing is held back: the rank is to end.
  void drain() { draining_ = true; }

 private:
  Spool& spool_;
  Uplink& uplink_;
  Millis patience_;                      // what is left of it
  std::uint64_t patience_front_ = 0;     // acknowledged output up to which it has been earned
  std::optional<MonoTime> waits_since_;  // since when output waits
  std::string told_trouble_;
  bool draining_ = false;
};

}  // namespace quad::runner
