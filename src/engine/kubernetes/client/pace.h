// engine/kubernetes/client/pace.h
//
// How fast the API server may be asked: a bound on the rate of writes that all threads share, and
// the growing pauses between tries. Both are told the time and never wait themselves.

#pragma once

#include <cstdint>
#include <mutex>
#include <random>

#include "base/time.h"

namespace quad::kubernetes {

/// A token bucket. Any thread: the mutex is there because its only purpose is to be shared. Who
/// takes a token that is not there yet has it reserved, so the order is that of the asking.
class RateLimit {
 public:
  /// `per_second` of 0: no limit.
  RateLimit(double per_second, double burst);

  /// Takes one token; returns how long to wait before using it.
  [[nodiscard]] Millis take(MonoTime now);

 private:
  const double per_second_;
  const double burst_;
  std::mutex mutex_;
  double tokens_;  ///< negative: that many are promised
  MonoTime at_;
  bool begun_ = false;
};

/// Pauses that double from `least` to `most`, each shortened at random by up to a half, so that
/// many clients do not come back together. One thread.
class Backoff {
 public:
  Backoff(Millis least, Millis most, std::uint64_t seed)
      : least_(least), most_(most), random_(seed) {}

  [[nodiscard]] Millis next();
  void reset() { step_ = Millis(0); }

 private:
  Millis least_;
  Millis most_;
  Millis step_{0};
  std::mt19937_64 random_;
};

/// A seed that nobody else has.
[[nodiscard]] std::uint64_t random_seed();

}  // namespace quad::kubernetes
