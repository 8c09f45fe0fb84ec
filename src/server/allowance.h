// server/allowance.h
//
// How long each caller has held up the io thread lately by requests that should have been short. A
// usual one costs nothing here, however many there are; who sends others is answered in turn
// (server/work_pool.h) instead of at once, until that is some time ago. Io thread only; a look-up
// for each call.

#pragma once

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <map>
#include <string>

#include "base/time.h"

namespace quad::server {

class Allowance {
 public:
  [[nodiscard]] bool has(const std::string& caller, MonoTime now) const {
    const auto found = debts_.find(caller);
    return found == debts_.end() || left(found->second, now) < kMost;
  }

  /// `micros`: of the thread's own time, for one request.
  void charge(const std::string& caller, std::int64_t micros, MonoTime now) {
    if (micros <= kUsual) {
      return;
    }
    constexpr std::size_t kMostKnown = 1'000;
    if (debts_.size() >= kMostKnown) {
      std::erase_if(debts_, [&](const auto& one) { return left(one.second, now) == 0; });
    }
    Debt& debt = debts_[caller];
    debt = {left(debt, now) + micros - kUsual, now};
  }

 private:
  static constexpr std::int64_t kUsual = 300;    ///< microseconds
  static constexpr std::int64_t kMost = 20'000;  ///< of debt
  static constexpr std::int64_t kForgivenInMilli =
      20;  ///< so a caller takes at most 2% of the thread

  struct Debt {
    std::int64_t micros = 0;
    MonoTime at;
  };
  static std::int64_t left(const Debt& debt, MonoTime now) {
    return std::max<std::int64_t>(0, debt.micros - (now - debt.at).count() * kForgivenInMilli);
  }

  std::map<std::string, Debt> debts_;
};

/// What this thread has used of a processor.
inline std::int64_t thread_micros() {
  timespec used{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return used.tv_sec * 1'000'000 + used.tv_nsec / 1'000;
}

}  // namespace quad::server
