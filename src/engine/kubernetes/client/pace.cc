#include "engine/kubernetes/client/pace.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>

#include "base/text.h"

namespace quad::kubernetes {

RateLimit::RateLimit(double per_second, double burst)
    : per_second_(per_second), burst_(std::max(1.0, burst)), tokens_(burst_) {}

Millis RateLimit::take(MonoTime now) {
  if (per_second_ <= 0) {
    return Millis(0);
  }
  const std::lock_guard lock(mutex_);
  if (begun_ && now > at_) {
    const double earned = static_cast<double>((now - at_).count()) / 1000.0 * per_second_;
    tokens_ = std::min(burst_, tokens_ + earned);
  }
  at_ = begun_ ? std::max(at_, now) : now;
  begun_ = true;
  tokens_ -= 1.0;
  if (tokens_ >= 0) {
    return Millis(0);
  }
  return Millis(static_cast<std::int64_t>(std::ceil(-tokens_ / per_second_ * 1000.0)));
}

Millis Backoff::next() {
  step_ = step_ == Millis(0) ? least_ : std::min(most_, step_ * 2);
  const auto half = step_.count() / 2;
  return Millis(step_.count() - static_cast<std::int64_t>(random_() % (half + 1)));
}

std::uint64_t random_seed() {
  return std::stoull(random_hex(8), nullptr, 16);
}

}  // namespace quad::kubernetes
