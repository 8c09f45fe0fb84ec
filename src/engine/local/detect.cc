#include "engine/local/detect.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cctype>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>

#include "base/file.h"
#include "base/text.h"

namespace quad::engine {

namespace {

namespace fs = std::filesystem;

std::optional<std::int64_t> number(std::string_view text) {
  text = trim(text);
  std::int64_t value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failure == std::errc() && end != text.data() ? std::optional(value) : std::nullopt;
}

std::optional<std::string> text_of(const fs::path& path) {
  auto text = read_file(path, 1U << 20U);
  return text.ok() ? std::optional(std::move(text).value()) : std::nullopt;
}

std::int64_t cpus(const fs::path& root) {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::int64_t milli = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) * 1000LL
                                                                   : sysconf(_SC_NPROCESSORS_ONLN) * 1000LL;
  // cgroup v2: "max 100000" or "150000 100000"; v1: two files, -1 without a quota.
  std::optional<std::int64_t> quota;
  std::optional<std::int64_t> period;
  if (const auto text = text_of(root / "sys/fs/cgroup/cpu.max")) {
    const auto parts = split(trim(*text), ' ');
    quota = number(parts.front());
    period = number(parts.back());
  } else {
    quota = number(text_of(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").value_or(""));
    period = number(text_of(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us").value_or(""));
  }
  if (quota && period && *quota > 0 && *period > 0) {
    milli = std::min(milli, *quota * 1000 / *period);
  }
  return std::max<std::int64_t>(milli, 1000);
}

std::int64_t memory(const fs::path& root) {
  std::int64_t bytes = 0;
  const std::string info = text_of(root / "proc/meminfo").value_or("");
  for (const std::string_view line : split(info, '\n')) {
    if (line.starts_with("MemTotal:")) {
      bytes = number(line.substr(9)).value_or(0) * 1024;
    }
  }
  for (const char* file : {"sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    const auto limit = number(text_of(root / file).value_or(""));
    if (limit && *limit > 0) {
      bytes = bytes == 0 ? *limit : std::min(bytes, *limit);
    }
  }
  return bytes;
}

/// NVIDIA's management library, if it is installed and works. Its few functions are loaded by name, so that Quad needs
/// no NVIDIA header to build and no driver to start.
std::vector<std::string> nvml_gpus() {
  const std::unique_ptr<void, int (*)(void*)> library(dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL),
                                                      [](void* handle) { return handle ? dlclose(handle) : 0; });
  std::vector<std::string> names;
  if (library == nullptr) {
    return names;
  }
  const auto function = [&]<typename Function>(const char* name, Function*& out) {
    out = reinterpret_cast<Function*>(dlsym(library.get(), name));
    return out != nullptr;
  };
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*count)(unsigned*) = nullptr;
  int (*handle)(unsigned, void**) = nullptr;
  int (*name_of)(void*, char*, unsigned) = nullptr;
  if (!function("nvmlInit_v2", init) || !function("nvmlShutdown", shutdown) ||
      !function("nvmlDeviceGetCount_v2", count) || !function("nvmlDeviceGetHandleByIndex_v2", handle) ||
      !function("nvmlDeviceGetName", name_of) || init() != 0) {
    return names;
  }
  unsigned devices = 0;
  if (count(&devices) == 0) {
    for (unsigned i = 0; i < devices; ++i) {
      void* device = nullptr;
      std::array<char, 128> name{};
      if (handle(i, &device) == 0 && name_of(device, name.data(), name.size()) == 0) {
        names.emplace_back(name.data());
      }
    }
  }
  shutdown();
  return names;
}

/// Without NVML: what the kernel driver itself says, one folder for each device, in bus order.
std::vector<std::string> driver_gpus(const fs::path& root) {
  std::map<std::string, std::string> by_bus;
  std::error_code failure;
  for (fs::directory_iterator it(root / "proc/driver/nvidia/gpus", failure), end; !failure && it != end;
       it.increment(failure)) {
    const std::string information = text_of(it->path() / "information").value_or("");
    for (const std::string_view line : split(information, '\n')) {
      if (line.starts_with("Model:")) {
        by_bus[it->path().filename().string()] = std::string(trim(line.substr(6)));
      }
    }
  }
  std::vector<std::string> names;
  for (auto& [bus, name] : by_bus) {
    names.push_back(std::move(name));
  }
  return names;
}

std::vector<std::string> smi_gpus() {
  std::vector<std::string> names;
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(
      popen("timeout 10 nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null", "re"), pclose);
  std::array<char, 256> line{};
  while (pipe != nullptr && std::fgets(line.data(), line.size(), pipe.get()) != nullptr) {
    if (const std::string_view name = trim(line.data()); !name.empty()) {
      names.emplace_back(name);
    }
  }
  return names;
}

/// AMD's compute driver lists CPUs and GPUs as nodes; only GPUs have SIMD units.
std::vector<std::string> amd_gpus(const fs::path& root) {
  std::map<std::int64_t, std::string> by_node;
  std::error_code failure;
  for (fs::directory_iterator it(root / "sys/class/kfd/kfd/topology/nodes", failure), end; !failure && it != end;
       it.increment(failure)) {
    const std::string properties = text_of(it->path() / "properties").value_or("");
    for (const std::string_view line : split(properties, '\n')) {
      if (line.starts_with("simd_count ") && number(line.substr(11)).value_or(0) > 0) {
        const std::string name(trim(text_of(it->path() / "name").value_or("")));
        by_node[number(it->path().filename().string()).value_or(0)] = name.empty() ? "AMD-GPU" : name;
      }
    }
  }
  std::vector<std::string> names;
  for (auto& [node, name] : by_node) {
    names.push_back(std::move(name));
  }
  return names;
}

}  // namespace

Machine detect_machine(const std::filesystem::path& root) {
  Machine machine;
  machine.cpu_milli = cpus(root);
  machine.memory_bytes = memory(root);
  const bool real = root == "/";
  const bool driver = fs::exists(root / "proc/driver/nvidia/version") || fs::exists(root / "dev/nvidiactl");
  if (real && driver) {
    machine.gpus = nvml_gpus();
  }
  if (machine.gpus.empty()) {
    machine.gpus = driver_gpus(root);
  }
  if (machine.gpus.empty() && real && driver) {
    machine.gpus = smi_gpus();
  }
  if (machine.gpus.empty()) {
    machine.gpus = amd_gpus(root);
    machine.amd = !machine.gpus.empty();
  }
  return machine;
}

std::string canonical_gpu(std::string_view driver_name) {
  std::string name;
  for (const char c : driver_name) {
    name += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  // Longer names first, where one begins another.
  struct Known {
    std::string_view contains;
    std::string_view also;
    std::string_view canonical;
  };
  constexpr std::array<Known, 42> kKnown = {{
      {"GH200", "", "GH200"},      {"GB300", "", "GB300"},      {"GB200", "", "GB200"},
      {"B300", "", "B300"},        {"B200", "", "B200"},        {"B100", "", "B100"},
      {"H200", "", "H200"},        {"H100", "", "H100"},        {"H800", "", "H800"},
      {"H20", "", "H20"},          {"A100", "80GB", "A100-80GB"}, {"A100", "", "A100"},
      {"A800", "", "A800"},        {"L40S", "", "L40S"},        {"L40", "", "L40"},
      {"L4", "", "L4"},            {"A10G", "", "A10G"},        {"RTX A6000", "", "RTXA6000"},
      {"RTX A5000", "", "RTXA5000"}, {"RTX A4000", "", "RTXA4000"}, {"RTX 6000 ADA", "", "RTX6000-Ada"},
      {"RTX 5000 ADA", "", "RTX5000-Ada"}, {"RTX PRO 6000", "", "RTXPRO6000"}, {"A40", "", "A40"},
      {"A30", "", "A30"},          {"A16", "", "A16"},          {"A10", "", "A10"},
      {"V100", "32GB", "V100-32GB"}, {"V100", "", "V100"},       {"P100", "", "P100"},
      {"P40", "", "P40"},          {"P4", "", "P4"},            {"T4", "", "T4"},
      {"K80", "", "K80"},          {"QUADRO RTX 8000", "", "QUADRO-RTX-8000"}, {"MI355X", "", "MI355X"},
      {"MI350X", "", "MI350X"},    {"MI325X", "", "MI325X"},    {"MI300X", "", "MI300X"},
      {"MI300A", "", "MI300A"},    {"MI250X", "", "MI250X"},    {"MI250", "", "MI250"},
  }};
  const auto has_word = [&name](std::string_view word) {
    for (std::size_t at = name.find(word); at != std::string::npos; at = name.find(word, at + 1)) {
      const bool starts = at == 0 || std::isalnum(static_cast<unsigned char>(name[at - 1])) == 0;
      const std::size_t end = at + word.size();
      const bool ends = end == name.size() || std::isalnum(static_cast<unsigned char>(name[end])) == 0;
      if (starts && ends) {
        return true;
      }
    }
    return false;
  };
  for (const Known& known : kKnown) {
    if (has_word(known.contains) && (known.also.empty() || name.find(known.also) != std::string::npos)) {
      return std::string(known.canonical);
    }
  }
  std::string out;
  for (const std::string_view word : split(name, ' ')) {
    if (!word.empty() && word != "NVIDIA" && word != "GEFORCE" && word != "TESLA" && word != "AMD" && word != "INSTINCT") {
      const bool joined = out == "RTX" || out == "GTX";  // "RTX 4090" is written RTX4090
      out += (out.empty() || joined ? "" : "-") + std::string(word);
    }
  }
  return out.empty() ? std::string(trim(driver_name)) : out;
}

}  // namespace quad::engine
