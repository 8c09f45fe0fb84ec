// bench/allocations.h
//
// Counts what a benchmark allocates: a figure that does not depend on how busy the machine is.
// Replaces the global operator new, so it is included by exactly one file of a program.

#pragma once

#include <benchmark/benchmark.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace quad::bench {

inline std::atomic<std::uint64_t> allocations = 0;

/// From its making on; puts the number for each iteration into the benchmark's counters when it
/// goes.
class CountAllocations {
 public:
  explicit CountAllocations(benchmark::State& state) : state_(state), before_(allocations) {}
  CountAllocations(const CountAllocations&) = delete;
  CountAllocations& operator=(const CountAllocations&) = delete;
  ~CountAllocations() {
    state_.counters["allocations"] = benchmark::Counter(static_cast<double>(allocations - before_),
                                                        benchmark::Counter::kAvgIterations);
  }

 private:
  benchmark::State& state_;
  std::uint64_t before_;
};

}  // namespace quad::bench

// NOLINTBEGIN(cppcoreguidelines-no-malloc,hicpp-no-malloc,misc-definitions-in-headers): this is
// what memory comes from, and each program includes it once.
void* operator new(std::size_t size) {
  quad::bench::allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(size == 0 ? 1 : size)) {
    return memory;
  }
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t /*size*/) noexcept {
  std::free(memory);
}
// NOLINTEND(cppcoreguidelines-no-malloc,hicpp-no-malloc,misc-definitions-in-headers)
