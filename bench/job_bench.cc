// The pure steps that every job goes through: transitions, its record as JSON, and the planner's
// decision.

#include <fmt/format.h>

#include "bench/allocations.h"
#include "job/record.h"
#include "job/transition.h"
#include "plan/scheduler.h"

namespace quad::bench {
namespace {

constexpr WallTime kNow{1'790'000'000'000};

std::shared_ptr<job::Request> make_request(std::int32_t ranks, std::int32_t gpus) {
  auto request = std::make_shared<job::Request>();
  request->name = "train";
  request->owner = "ana";
  request->ranks = ranks;
  request->shapes = {{{4'000, 8LL << 30U, gpus}, gpus > 0 ? "H100" : ""}};
  request->body = R"({"run": "python train.py"})";
  return request;
}

job::Job make_placed(std::int32_t ranks) {
  job::Step step;
  job::Job job = job::submit(JobId(1), make_request(ranks, 1), kNow, step);
  job::Placed placed;
  for (std::int32_t rank = 0; rank < ranks; ++rank) {
    placed.holdings.push_back({NodeId(fmt::format("node-{}", rank)), {4'000, 8LL << 30U, 1}, {0}});
  }
  (void)job::apply(job, placed, kNow);
  return job;
}

/// A whole life: placed, each rank says hello, is ready and ends; time for each job.
void live_through(benchmark::State& state) {
  const auto ranks = static_cast<std::int32_t>(state.range(0));
  const Epoch epoch(1);
  const CountAllocations count(state);
  for (auto _ : state) {
    job::Job job = make_placed(ranks);
    for (Rank rank(0); rank < Rank(ranks); rank = Rank(rank.value() + 1)) {
      benchmark::DoNotOptimize(
          job::apply(job, job::RankHello{epoch, rank, "nonce", "127.0.0.1", 4000}, kNow));
    }
    benchmark::DoNotOptimize(job::apply(job, job::ResumeChosen{epoch, {}}, kNow));
    for (Rank rank(0); rank < Rank(ranks); rank = Rank(rank.value() + 1)) {
      benchmark::DoNotOptimize(job::apply(job, job::RankReady{epoch, rank}, kNow));
    }
    for (Rank rank(0); rank < Rank(ranks); rank = Rank(rank.value() + 1)) {
      benchmark::DoNotOptimize(job::apply(job, job::RankEnded{epoch, rank, {}}, kNow));
    }
    if (job.status != job::Status::kSucceeded) {
      state.SkipWithError("the job did not succeed");
    }
  }
}
BENCHMARK(live_through)->ArgName("ranks")->Arg(1)->Arg(8)->Unit(benchmark::kMicrosecond);

void write_record(benchmark::State& state) {
  const job::Job job = make_placed(static_cast<std::int32_t>(state.range(0)));
  const CountAllocations count(state);
  for (auto _ : state) {
    benchmark::DoNotOptimize(to_text(job::to_json(job)));
  }
}
BENCHMARK(write_record)->ArgName("ranks")->Arg(1)->Arg(8)->Unit(benchmark::kMicrosecond);

void read_record(benchmark::State& state) {
  const job::Job job = make_placed(static_cast<std::int32_t>(state.range(0)));
  const std::string text = to_text(job::to_json(job));
  const CountAllocations count(state);
  for (auto _ : state) {
    benchmark::DoNotOptimize(job::job_from_json(parse_json_object(text).value(), job.request));
  }
}
BENCHMARK(read_record)->ArgName("ranks")->Arg(1)->Arg(8)->Unit(benchmark::kMicrosecond);

/// 10,000 jobs wait for a full pool of 100 nodes, in so many different shapes: what each pass of
/// the planner costs.
void decide_nothing(benchmark::State& state) {
  constexpr std::int64_t kWaiting = 10'000;
  pool::Pool pool;
  for (int i = 0; i < 100; ++i) {
    pool::NodeSpec spec;
    spec.id = NodeId(fmt::format("node-{:03}", i));
    spec.capacity = {96'000, 1LL << 40U, 8};
    spec.gpu_model = "H100";
    pool.put_node(spec);
    (void)pool.hold({JobId(1'000'000 + i), Epoch(1), Rank(0)}, spec.id, spec.capacity);
  }
  const auto scheduler = plan::make_fifo();
  for (std::int64_t id = 1; id <= kWaiting; ++id) {
    job::Step step;
    auto request = make_request(1, 1);
    request->shapes[0].per_rank.cpu_milli = 1'000 * (1 + id % state.range(0));
    scheduler->enqueue(job::submit(JobId(id), std::move(request), kNow, step));
  }
  const CountAllocations count(state);
  for (auto _ : state) {
    if (!scheduler->decide(pool, "").empty()) {
      state.SkipWithError("something was started on a full pool");
    }
  }
}
BENCHMARK(decide_nothing)->ArgName("shapes")->Arg(1)->Arg(50)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace quad::bench
