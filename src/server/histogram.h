// server/histogram.h
//
// How long something takes, in Prometheus' way: counts of durations up to each of some bounds, and
// their sum. One thread records, any thread reads; a reader may see a record half counted, which a
// scrape does not mind.

#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace quad::server {

struct Histogram {
  static constexpr std::array<double, 9> kSeconds = {0.001, 0.0025, 0.005, 0.02, 0.1,
                                                     0.5,   2,      10,    60};
  std::array<std::atomic<std::uint64_t>, kSeconds.size() + 1>
      within{};  ///< the last: longer than all of these
  std::atomic<double> seconds{0};

  void record(double took) {
    ++within[static_cast<std::size_t>(std::lower_bound(kSeconds.begin(), kSeconds.end(), took) -
                                      kSeconds.begin())];
    seconds += took;
  }
};

}  // namespace quad::server
