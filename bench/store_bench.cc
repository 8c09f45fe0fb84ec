// A commit of so many new jobs with their first events, synced to the disk: the time is mostly the
// disk's, and its slowest ones are those during which the write-ahead log is folded into the
// database.

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "bench/allocations.h"
#include "job/transition.h"
#include "store/store.h"

namespace quad::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;

void commit_new_jobs(benchmark::State& state) {
  std::string folder = (std::filesystem::temp_directory_path() / "quad-bench-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) {
    state.SkipWithError("no temporary folder can be made");
    return;
  }
  {
    auto store = store::open_sqlite(folder);
    std::int64_t last = 0;
    std::vector<double> millis;
    for (auto _ : state) {
      std::vector<job::Job> jobs;
      store::Batch batch;
      for (std::int64_t i = 0; i < state.range(0); ++i) {
        auto request = std::make_shared<job::Request>();
        request->name = "train";
        request->owner = "ana";
        request->shapes = {{{4'000, 8LL << 30U, 1}, "H100"}};
        request->body = std::string(400, 'x');
        job::Step step;
        jobs.push_back(
            job::submit(JobId(++last), std::move(request), WallTime{1'790'000'000'000}, step));
        step.events.front().revision = Revision(last);
        batch.events.push_back(std::move(step.events.front()));
      }
      for (const job::Job& job : jobs) {
        batch.new_jobs.push_back({&job, ""});
      }
      const auto began = SteadyClock::now();
      if (const Status status = (*store)->commit(batch); !status.ok()) {
        state.SkipWithError(status.error().message.c_str());
      }
      const std::chrono::duration<double> took = SteadyClock::now() - began;
      state.SetIterationTime(took.count());
      millis.push_back(took.count() * 1000);
    }
    std::sort(millis.begin(), millis.end());
    state.counters["max_ms"] = millis.empty() ? 0 : millis.back();
    state.counters["jobs"] =
        benchmark::Counter(static_cast<double>(last), benchmark::Counter::kIsRate);
  }
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
}
BENCHMARK(commit_new_jobs)
    ->ArgName("jobs")
    ->Arg(1)
    ->Arg(16)
    ->Arg(1000)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace quad::bench
