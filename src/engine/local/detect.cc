#include "engine/local/detect.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "base/file.h"
#include "base/text.h"
#include "engine/local/nvidia.h"
#include "pool/gpu_names.h"

namespace quad::engine {
namespace {

namespace fs = std::filesystem;

std::optional<std::int64_t> to_number(std::string_view text) {
  return parse_number(trim(text));
}

std::optional<std::string> text_of(const fs::path& path) {
  auto text = read_file(path, 1U << 20U);
  return text.ok() ? std::optional(std::move(text).value()) : std::nullopt;
}

std::optional<std::int64_t> number_in(const fs::path& path) {
  const auto text = text_of(path);
  return text ? to_number(*text) : std::nullopt;
}

// This process's place in the cgroup tree of a controller; of version 2 for "". Nothing if it is
// not in such a tree.
std::optional<fs::path> cgroup_of(const fs::path& proc, std::string_view controller) {
  const std::string text = text_of(proc / "self/cgroup").value_or("");
  for (const std::string_view line : split(text, '\n')) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second == std::string_view::npos) {
      continue;
    }
    for (const std::string_view name : split(line.substr(first + 1, second - first - 1), ',')) {
      if (name == controller) {
        return fs::path(line.substr(second + 1)).relative_path();
      }
    }
  }
  return std::nullopt;
}

// The folders of a cgroup and all above it: a limit anywhere on the way holds. In a container the
// path may be the host's, of which only the top is to be seen; what is not there has no limit.
std::vector<fs::path> cgroup_folders(const fs::path& top, const fs::path& cgroup) {
  std::vector<fs::path> folders = {top};
  fs::path folder = top;
  for (const fs::path& part : cgroup) {
    folder /= part;
    folders.push_back(folder);
  }
  return folders;
}

std::int64_t usable_cpu_milli(const DetectOptions& options) {
  std::int64_t milli = 0;
  if (options.cpus) {
    milli = *options.cpus * 1000;
  } else {
    cpu_set_t set;
    CPU_ZERO(&set);
    const bool known = ::sched_getaffinity(0, sizeof set, &set) == 0;
    milli = 1000 * (known ? CPU_COUNT(&set) : ::sysconf(_SC_NPROCESSORS_ONLN));
  }
  const auto limit = [&milli](std::optional<std::int64_t> quota,
                              std::optional<std::int64_t> period) {
    if (quota && period && *quota > 0 && *period > 0) {
      milli = std::min(milli, *quota * 1000 / *period);
    }
  };
  const fs::path top = options.sys / "fs/cgroup";
  if (const auto cgroup = cgroup_of(options.proc, "")) {
    for (const fs::path& folder : cgroup_folders(top, *cgroup)) {
      if (const auto text = text_of(folder / "cpu.max")) {
        const auto parts = split(trim(*text), ' ');  // "max 100000" without a quota
        limit(to_number(parts.front()), to_number(parts.back()));
      }
    }
  }
  if (const auto cgroup = cgroup_of(options.proc, "cpu")) {
    for (const char* mount : {"cpu", "cpu,cpuacct"}) {
      for (const fs::path& folder : cgroup_folders(top / mount, *cgroup)) {
        limit(number_in(folder / "cpu.cfs_quota_us"), number_in(folder / "cpu.cfs_period_us"));
      }
    }
  }
  return std::max<std::int64_t>(milli, 100);
}

std::int64_t usable_memory(const DetectOptions& options) {
  std::int64_t bytes = 0;
  const std::string info = text_of(options.proc / "meminfo").value_or("");
  for (std::string_view line : split(info, '\n')) {
    if (line.starts_with("MemTotal:") && line.ends_with(" kB")) {
      line.remove_suffix(3);
      bytes = to_number(line.substr(9)).value_or(0) * 1024;
    }
  }
  const auto limit = [&bytes](std::optional<std::int64_t> most) {
    if (most && *most > 0) {
      bytes = bytes == 0 ? *most : std::min(bytes, *most);
    }
  };
  const fs::path top = options.sys / "fs/cgroup";
  if (const auto cgroup = cgroup_of(options.proc, "")) {
    for (const fs::path& folder : cgroup_folders(top, *cgroup)) {
      limit(number_in(folder / "memory.max"));  // "max" without a limit
    }
  }
  if (const auto cgroup = cgroup_of(options.proc, "memory")) {
    for (const fs::path& folder : cgroup_folders(top / "memory", *cgroup)) {
      limit(number_in(folder / "memory.limit_in_bytes"));  // about 2^63 without a limit
    }
  }
  return bytes;
}

// The compute driver's nodes are CPUs and GPUs; only GPUs have SIMD units.
std::vector<Gpu> gpus_of_kfd(const fs::path& sys) {
  std::map<std::int64_t, Gpu> by_node;
  std::error_code failure;
  for (fs::directory_iterator it(sys / "class/kfd/kfd/topology/nodes", failure), end;
       !failure && it != end; it.increment(failure)) {
    std::map<std::string, std::int64_t, std::less<>> properties;
    const std::string text = text_of(it->path() / "properties").value_or("");
    for (const std::string_view line : split(text, '\n')) {
      const std::size_t blank = line.find(' ');
      if (blank != std::string_view::npos) {
        properties[std::string(line.substr(0, blank))] =
            to_number(line.substr(blank + 1)).value_or(0);
      }
    }
    const auto node = to_number(it->path().filename().string());
    if (!node || properties["simd_count"] <= 0) {
      continue;
    }
    Gpu gpu;
    gpu.model = pool::amd_gpu_model(properties["device_id"]);
    gpu.name = trim(text_of(it->path() / "name").value_or(""));
    if (gpu.name.empty() || gpu.name == "ip discovery") {
      // 90402 is gfx942: its instruction set is all that an unknown device says of itself.
      const std::int64_t version = properties["gfx_target_version"];
      gpu.name = fmt::format("gfx{}{:x}{:x}", version / 10000, version / 100 % 100, version % 100);
    }
    gpu.memory_bytes = properties["local_mem_size"];
    const std::int64_t place = properties["location_id"];
    gpu.bus_id = fmt::format("{:04x}:{:02x}:{:02x}.{:x}", properties["domain"], (place >> 8) & 0xff,
                             (place >> 3) & 0x1f, place & 7);
    std::error_code inner;
    for (fs::directory_iterator bank(it->path() / "mem_banks", inner), banks_end;
         !inner && bank != banks_end && gpu.memory_bytes == 0; bank.increment(inner)) {
      const std::string bank_text = text_of(bank->path() / "properties").value_or("");
      for (const std::string_view line : split(bank_text, '\n')) {
        if (line.starts_with("size_in_bytes ")) {
          gpu.memory_bytes = to_number(line.substr(14)).value_or(0);
        }
      }
    }
    by_node.emplace(*node, std::move(gpu));
  }
  std::vector<Gpu> gpus;
  for (auto& [node, gpu] : by_node) {
    gpu.index = static_cast<std::int32_t>(gpus.size());
    gpus.push_back(std::move(gpu));
  }
  return gpus;
}

// The driver's own files are there whenever the driver is, but in a container they may show GPUs
// that it may not use: so the library comes first, which counts those that can be opened.
std::vector<Gpu> nvidia_gpus(const DetectOptions& options, std::string& source,
                             std::vector<std::string>& remarks) {
  const auto remark = [&](const Result<std::vector<Gpu>>& answer) {
    if (!answer.ok() && answer.error().code != ErrorCode::kNotFound) {
      remarks.push_back(answer.error().message);
    }
  };
  if (!options.nvml.empty()) {
    auto gpus = gpus_of_nvml(options.nvml, options.limit);
    remark(gpus);
    if (gpus.ok() && !gpus->empty()) {
      source = "NVML";
      return std::move(gpus).value();
    }
  }
  if (auto gpus = gpus_of_driver(options.proc); !gpus.empty()) {
    source = "the driver";
    return gpus;
  }
  if (!options.nvidia_smi.empty()) {
    auto gpus = gpus_of_smi(options.nvidia_smi, options.limit);
    remark(gpus);
    if (gpus.ok() && !gpus->empty()) {
      source = "nvidia-smi";
      return std::move(gpus).value();
    }
  }
  return {};
}

}  // namespace

Machine detect_machine(const DetectOptions& options) {
  Machine machine;
  machine.cpu_milli = usable_cpu_milli(options);
  machine.memory_bytes = usable_memory(options);
  machine.gpus = nvidia_gpus(options, machine.gpu_source, machine.remarks);
  std::optional<std::string> visible = options.visible_nvidia;
  if (!machine.gpus.empty()) {
    machine.gpu_env = "CUDA_VISIBLE_DEVICES";
  } else if (machine.gpus = gpus_of_kfd(options.sys); !machine.gpus.empty()) {
    machine.gpu_env = "HIP_VISIBLE_DEVICES";
    machine.gpu_source = "kfd";
    visible = options.visible_amd;
  }
  for (Gpu& gpu : machine.gpus) {
    if (gpu.model.empty()) {
      gpu.model = pool::canonical_gpu(gpu.name);
    }
  }
  if (visible) {
    machine.gpus = visible_gpus(machine.gpus, *visible);
  }
  for (const Gpu& gpu : machine.gpus) {
    if (!gpu.unusable.empty()) {
      machine.remarks.push_back(
          fmt::format("GPU {} is not offered to jobs: {}", gpu.index, gpu.unusable));
    }
  }
  std::erase_if(machine.gpus, [](const Gpu& gpu) { return !gpu.unusable.empty(); });
  return machine;
}

std::vector<Gpu> visible_gpus(const std::vector<Gpu>& gpus, std::string_view variable) {
  std::vector<Gpu> visible;
  if (trim(variable) == "all") {  // not CUDA's own word, but containers are given it
    return gpus;
  }
  for (const std::string_view part : split(variable, ',')) {
    const std::string_view name = trim(part);
    const auto index = to_number(name);
    const auto named = [&](const Gpu& gpu) {
      return index ? gpu.index == *index : name.starts_with("GPU-") && gpu.uuid.starts_with(name);
    };
    const auto it = std::find_if(gpus.begin(), gpus.end(), named);
    if (std::count_if(gpus.begin(), gpus.end(), named) != 1) {
      break;
    }
    if (std::any_of(visible.begin(), visible.end(),
                    [&](const Gpu& gpu) { return gpu.index == it->index; })) {
      return {};
    }
    visible.push_back(*it);
  }
  std::sort(visible.begin(), visible.end(),
            [](const Gpu& a, const Gpu& b) { return a.index < b.index; });
  return visible;
}

std::vector<Gpu> main_gpus(const std::vector<Gpu>& gpus) {
  const auto count = [&gpus](const std::string& model) {
    return std::count_if(gpus.begin(), gpus.end(),
                         [&](const Gpu& gpu) { return gpu.model == model; });
  };
  const auto best = std::max_element(gpus.begin(), gpus.end(), [&](const Gpu& a, const Gpu& b) {
    return count(a.model) < count(b.model);
  });
  std::vector<Gpu> chosen;
  for (const Gpu& gpu : gpus) {
    if (gpu.model == best->model) {
      chosen.push_back(gpu);
    }
  }
  return chosen;
}

}  // namespace quad::engine
