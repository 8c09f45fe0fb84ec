// What the server does with the text of each submission.

#include "bench/allocations.h"
#include "spec/parse.h"

namespace quad::bench {
namespace {

constexpr std::string_view kTask = R"(name: train
resources:
  accelerators: H100:8
  cpus: 32+
  memory: 256+
  job_recovery:
    max_restarts_on_errors: 2
num_nodes: 2
envs:
  MODEL: llama
  EPOCHS: "3"
file_mounts:
  /data: https://example.org/data.tar
setup: |
  pip install -r requirements.txt
run: |
  torchrun --nnodes $SKYPILOT_NUM_NODES --nproc-per-node $SKYPILOT_NUM_GPUS_PER_NODE train.py --model $MODEL
)";

void parse_task(benchmark::State& state) {
  const CountAllocations count(state);
  for (auto _ : state) {
    const spec::TaskSet set = spec::parse(kTask, {});
    if (!set.ok()) {
      state.SkipWithError(set.errors.front().message.c_str());
    }
    benchmark::DoNotOptimize(set);
  }
}
BENCHMARK(parse_task)->Unit(benchmark::kMicrosecond);

void parse_command(benchmark::State& state) {
  const CountAllocations count(state);
  for (auto _ : state) {
    benchmark::DoNotOptimize(spec::from_command("python train.py", {}));
  }
}
BENCHMARK(parse_command)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace quad::bench
