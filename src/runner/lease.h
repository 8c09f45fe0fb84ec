// runner/lease.h
//
// The lease of a rank whose fence is strict: out of touch with both the server and the fence for
// its length, the rank stops itself. It runs from when it was asked for, not from when the answer
// came: that may have been long under way, or have waited for a process that stood still. Pure.

#pragma once

#include <algorithm>

#include "base/time.h"

namespace quad::runner {

class Lease {
 public:
  /// 0: there is none, and it never runs out.
  void set_length(Millis length) { length_ = length; }
  /// An answer has come to what was asked at `asked`. Nobody can have asked in the future.
  void renew(MonoTime asked, MonoTime now) {
    if (asked <= now) {
      asked_ = std::max(asked_, asked);
    }
  }

  [[nodiscard]] bool exists() const { return length_ > Millis(0); }
  [[nodiscard]] Millis length() const { return length_; }
  [[nodiscard]] MonoTime ends_at() const { return asked_ + length_; }
  [[nodiscard]] bool has_run_out(MonoTime now) const { return exists() && now >= ends_at(); }

 private:
  Millis length_{0};
  MonoTime asked_{0};
};

}  // namespace quad::runner
