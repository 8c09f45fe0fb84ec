// runner/vitals.h
//
// What the server is told about a rank while it lives, of which only the newest counts: heartbeats
// with memory and processor time, and the script's progress. Owned by the runner's one thread; a
// look for progress opens one local file.

#pragma once

#include <cstdint>
#include <filesystem>
#include <utility>

#include "base/time.h"
#include "runner/progress.h"
#include "runner/rank_init.h"
#include "runner/uplink.h"

namespace quad::runner {

class Vitals {
 public:
  /// Progress is told at most so often.
  static constexpr Millis kProgressInterval{500};

  Vitals(std::filesystem::path progress, Uplink& uplink)
      : progress_(std::move(progress)), uplink_(uplink) {}

  /// A heartbeat of a rank that has no processes.
  void tell_heartbeat(MonoTime now);
  /// One with what its processes use.
  void tell_usage(const InitReport& usage, MonoTime now);
  /// Progress, if there is any since the last call.
  void tell_progress(WallTime now);

 private:
  ProgressTail progress_;
  Uplink& uplink_;
  std::uint64_t last_cpu_millis_ = 0;
  MonoTime last_usage_at_{0};
};

}  // namespace quad::runner
