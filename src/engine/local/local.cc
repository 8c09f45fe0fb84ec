#include "engine/local/local.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/machine.h"
#include "base/text.h"
#include "engine/local/detect.h"
#include "engine/local/environment.h"
#include "engine/local/local_engine.h"
#include "pool/gpu_names.h"

namespace quad::engine {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kPretendCpus = 8'000;
constexpr std::int64_t kPretendMemory = 32LL << 30U;
constexpr int kMostNodes = 1000;
constexpr std::int32_t kMostGpus = 64;

struct PretendGpus {
  std::string model;
  std::int32_t count = 0;
};

// "H100:8", or "H100" for one. Drivers' names are understood too.
Result<PretendGpus> parse_gpus(const std::string& text) {
  if (text.empty()) {
    return PretendGpus{};
  }
  const std::size_t colon = text.find(':');
  PretendGpus gpus{pool::canonical_gpu(std::string_view(text).substr(0, colon)), 1};
  bool known = !gpus.model.empty();
  if (colon != std::string::npos) {
    const std::string_view number = std::string_view(text).substr(colon + 1);
    const auto [end, failure] =
        std::from_chars(number.data(), number.data() + number.size(), gpus.count);
    known = known && failure == std::errc() && end == number.data() + number.size() &&
            gpus.count >= 1 && gpus.count <= kMostGpus;
  }
  if (!known) {
    return error(
        ErrorCode::kInvalid,
        fmt::format("--gpus '{}' is not understood: write a model and a number from 1 to {}, "
                    "such as H100:8",
                    text, kMostGpus));
  }
  return gpus;
}

std::optional<std::string> variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

std::vector<std::string> own_environment() {
  std::vector<std::string> entries;
  for (char** entry = ::environ; entry != nullptr && *entry != nullptr; ++entry) {
    entries.emplace_back(*entry);
  }
  return entries;
}

// Of a rank: more than any training has, and so few that a rank that starts them without end leaves
// the machine most of what it can have.
std::int64_t usual_processes() {
  std::int64_t most = 32'768;
  for (const char* bound : {"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"}) {
    const std::string text = read_file(bound, 64).value_or("");
    if (const auto number = parse_number(trim(text)); number && *number > 0) {
      most = std::min(most, std::max<std::int64_t>(*number / 4, 1024));
    }
  }
  return most;
}

LocalNode real_node(const Machine& machine) {
  const std::string host = host_name();
  LocalNode node;
  node.spec.id = NodeId(host.empty() || host[0] == '.' ? "local" : host);
  node.spec.address = "127.0.0.1";
  const std::vector<Gpu> gpus = main_gpus(machine.gpus);
  for (const Gpu& gpu : gpus) {
    node.gpu_numbers.push_back(gpu.index);
  }
  node.spec.capacity = {machine.cpu_milli, machine.memory_bytes,
                        static_cast<std::int32_t>(gpus.size())};
  node.spec.gpu_model = gpus.empty() ? "" : gpus.front().model;
  node.gpu_env = machine.gpu_env;
  return node;
}

LocalNode pretend_node(int number, const LocalOptions& options, const Machine& machine,
                       const PretendGpus& gpus) {
  constexpr int kHosts = 250;  // of each of 127.64.0.0/24, 127.64.1.0/24, …
  LocalNode node;
  node.spec.id = NodeId(fmt::format("local-{}", number));
  node.spec.address = fmt::format("127.64.{}.{}", (number - 1) / kHosts, (number - 1) % kHosts + 1);
  node.spec.capacity = {
      options.cpu_milli > 0 ? options.cpu_milli : std::max(machine.cpu_milli, kPretendCpus),
      options.memory_bytes > 0 ? options.memory_bytes
                               : std::max(machine.memory_bytes, kPretendMemory),
      gpus.count};
  node.spec.gpu_model = gpus.model;
  node.spec.pretend = true;
  for (std::int32_t gpu = 0; gpu < gpus.count; ++gpu) {
    node.gpu_numbers.push_back(gpu);
  }
  // A rank without GPUs must not see the machine's real ones either.
  node.gpu_env =
      machine.gpu_env.empty() && gpus.count > 0 ? "CUDA_VISIBLE_DEVICES" : machine.gpu_env;
  return node;
}

}  // namespace

Result<std::unique_ptr<Engine>> make_local(LocalOptions options) {
  if (options.nodes < 0 || options.nodes > kMostNodes) {
    return error(ErrorCode::kInvalid,
                 fmt::format("--nodes {} is not possible; 0 (this machine as it is) to {} are",
                             options.nodes, kMostNodes));
  }
  if (options.nodes == 0 &&
      (!options.gpus.empty() || options.cpu_milli > 0 || options.memory_bytes > 0)) {
    return error(ErrorCode::kInvalid,
                 "GPUs, CPUs and memory can be chosen for pretend nodes only; give --nodes N too");
  }
  QUAD_ASSIGN(const PretendGpus gpus, parse_gpus(options.gpus));
  // The runner works in its own folder, where a relative path would mean another file.
  std::error_code failure;
  LocalEngineOptions engine;
  engine.data_dir = fs::absolute(options.data_dir, failure).lexically_normal();
  engine.hot = options.hot;
  engine.runner = fs::absolute(options.runner, failure);
  engine.server_url = options.server_url;
  engine.server_ca = options.server_ca;
  engine.open_files = options.open_files;
  const std::vector<std::string> own = own_environment();
  engine.environment = environment_of_jobs(own, options.environment);
  for (const std::string& name : missing_variables(own, options.environment)) {
    spdlog::warn("engines.local.environment names {}, which this server's environment lacks", name);
  }
  engine.cpus = usable_cpus();
  engine.spool_bytes = options.spool_bytes;
  engine.processes = options.processes > 0 ? options.processes : usual_processes();
  if (options.runner.empty() || ::access(engine.runner.c_str(), X_OK) != 0) {
    return error(ErrorCode::kNotFound, fmt::format("The runner program {} is missing or cannot be "
                                                   "executed; it belongs beside 'quad'",
                                                   options.runner.string()));
  }
  DetectOptions where;
  where.visible_nvidia = variable("CUDA_VISIBLE_DEVICES");
  where.visible_amd = variable("HIP_VISIBLE_DEVICES");
  const Machine machine = detect_machine(where);
  for (const std::string& remark : machine.remarks) {
    spdlog::warn("{}", remark);
  }
  if (options.nodes == 0) {
    engine.nodes.push_back(real_node(machine));
  }
  for (int number = 1; number <= options.nodes; ++number) {
    engine.nodes.push_back(pretend_node(number, options, machine, gpus));
  }
  return std::unique_ptr<Engine>(std::make_unique<LocalEngine>(std::move(engine)));
}

}  // namespace quad::engine
