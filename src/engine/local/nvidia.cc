#include "engine/local/nvidia.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "base/file.h"
#include "base/text.h"
#include "engine/local/spawn.h"

namespace quad::engine {
namespace {

namespace fs = std::filesystem;

template <typename Number>
bool read_number(std::string_view text, Number& out) {
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), out);
  return failure == std::errc() && end == text.data() + text.size();
}

// "00000000:3B:00.0", as the library and the program write it, is "0000:3b:00.0" in /proc and /sys.
std::string kernel_bus_id(std::string_view text) {
  std::string id(trim(text));
  if (const std::size_t colon = id.find(':'); colon == 8 && id.starts_with("0000")) {
    id.erase(0, 4);
  }
  std::transform(id.begin(), id.end(), id.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return id;
}

// The few structures and functions of the library's stable interface that are used here.
struct NvmlMemory {
  unsigned long long total = 0;
  unsigned long long free = 0;
  unsigned long long used = 0;
};
struct NvmlPci {
  char legacy_bus_id[16] = {};
  unsigned domain = 0;
  unsigned bus = 0;
  unsigned device = 0;
  unsigned pci_device = 0;
  unsigned pci_subsystem = 0;
  char bus_id[32] = {};
};

struct Nvml {
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*count)(unsigned*) = nullptr;
  int (*handle)(unsigned, void**) = nullptr;
  int (*name)(void*, char*, unsigned) = nullptr;
  int (*uuid)(void*, char*, unsigned) = nullptr;
  int (*memory)(void*, NvmlMemory*) = nullptr;
  int (*pci)(void*, NvmlPci*) = nullptr;
};

template <typename Function>
bool find_function(void* library, const char* name, Function*& out) {
  out = reinterpret_cast<Function*>(::dlsym(library, name));
  return out != nullptr;
}

Gpu ask_gpu(const Nvml& nvml, unsigned index, void* device) {
  Gpu gpu;
  gpu.index = static_cast<std::int32_t>(index);
  std::array<char, 256> text{};
  if (nvml.name(device, text.data(), text.size() - 1) == 0) {
    gpu.name = text.data();
  }
  text.fill('\0');
  if (nvml.uuid(device, text.data(), text.size() - 1) == 0) {
    gpu.uuid = text.data();
  }
  NvmlMemory memory;
  if (nvml.memory(device, &memory) == 0) {
    gpu.memory_bytes = static_cast<std::int64_t>(memory.total);
  }
  NvmlPci pci;
  if (nvml.pci(device, &pci) == 0) {
    pci.bus_id[sizeof pci.bus_id - 1] = '\0';
    gpu.bus_id = kernel_bus_id(pci.bus_id);
  }
  return gpu;
}

Result<std::vector<Gpu>> ask_library(const std::string& name) {
  // Never unloaded: the library keeps state of its own, and is used again.
  void* library = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return error(ErrorCode::kNotFound, fmt::format("The library {} is not installed", name));
  }
  Nvml nvml;
  const bool whole = find_function(library, "nvmlInit_v2", nvml.init) &&
                     find_function(library, "nvmlShutdown", nvml.shutdown) &&
                     find_function(library, "nvmlDeviceGetCount_v2", nvml.count) &&
                     find_function(library, "nvmlDeviceGetHandleByIndex_v2", nvml.handle) &&
                     find_function(library, "nvmlDeviceGetName", nvml.name) &&
                     find_function(library, "nvmlDeviceGetUUID", nvml.uuid) &&
                     find_function(library, "nvmlDeviceGetMemoryInfo", nvml.memory) &&
                     find_function(library, "nvmlDeviceGetPciInfo_v3", nvml.pci);
  if (!whole) {
    return error(ErrorCode::kUnavailable,
                 fmt::format("The library {} is not NVIDIA's, or too old", name));
  }
  if (const int code = nvml.init(); code != 0) {
    return error(ErrorCode::kUnavailable,
                 fmt::format("NVIDIA's management library does not work: its code is {}", code));
  }
  std::vector<Gpu> gpus;
  unsigned devices = 0;
  if (nvml.count(&devices) == 0) {
    for (unsigned i = 0; i < devices; ++i) {
      // One that has fallen off the bus has no handle; the others keep their numbers.
      if (void* device = nullptr; nvml.handle(i, &device) == 0) {
        gpus.push_back(ask_gpu(nvml, i, device));
      }
    }
  }
  nvml.shutdown();
  return gpus;
}

}  // namespace

Result<std::vector<Gpu>> gpus_of_nvml(const std::string& library, Millis limit) {
  // Shared with a thread that may never come back.
  struct Answer {
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<Result<std::vector<Gpu>>> gpus;
  };
  const auto answer = std::make_shared<Answer>();
  std::thread([answer, library] {
    auto gpus = ask_library(library);
    const std::lock_guard lock(answer->mutex);
    answer->gpus = std::move(gpus);
    answer->changed.notify_all();
  }).detach();
  std::unique_lock lock(answer->mutex);
  if (!answer->changed.wait_for(lock, limit, [&] { return answer->gpus.has_value(); })) {
    return error(
        ErrorCode::kTimeout,
        fmt::format("NVIDIA's management library did not answer within {} ms", limit.count()));
  }
  return std::move(*answer->gpus);
}

std::vector<Gpu> gpus_of_driver(const fs::path& proc) {
  std::map<std::string, Gpu> by_bus;
  std::error_code failure;
  for (fs::directory_iterator it(proc / "driver/nvidia/gpus", failure), end; !failure && it != end;
       it.increment(failure)) {
    Gpu gpu;
    gpu.bus_id = kernel_bus_id(it->path().filename().string());
    const std::string text = read_file(it->path() / "information", 1U << 16U).value_or("");
    for (const std::string_view line : split(text, '\n')) {
      if (line.starts_with("Model:")) {
        gpu.name = trim(line.substr(6));
      } else if (line.starts_with("GPU UUID:")) {
        gpu.uuid = trim(line.substr(9));
      }
    }
    if (!gpu.name.empty()) {
      by_bus.emplace(gpu.bus_id, std::move(gpu));
    }
  }
  std::vector<Gpu> gpus;
  for (auto& [bus, gpu] : by_bus) {
    gpu.index = static_cast<std::int32_t>(gpus.size());
    gpus.push_back(std::move(gpu));
  }
  return gpus;
}

Result<std::vector<Gpu>> parse_smi(std::string_view text) {
  std::vector<Gpu> gpus;
  for (const std::string_view line : split(text, '\n')) {
    if (trim(line).empty()) {
      continue;
    }
    const auto fields = split(line, ',');
    Gpu gpu;
    if (fields.size() != 5 || !read_number(trim(fields[0]), gpu.index)) {
      return error(ErrorCode::kInvalid,
                   fmt::format("nvidia-smi gave a line that is not understood: '{}'", trim(line)));
    }
    gpu.name = trim(fields[1]);
    gpu.uuid = trim(fields[2]);
    gpu.bus_id = kernel_bus_id(fields[3]);
    std::int64_t mebibytes = 0;
    if (read_number(trim(fields[4]), mebibytes)) {  // "[N/A]" where memory is shared with the CPU
      gpu.memory_bytes = mebibytes << 20U;
    }
    gpus.push_back(std::move(gpu));
  }
  return gpus;
}

Result<std::vector<Gpu>> gpus_of_smi(const std::string& program, Millis limit) {
  QUAD_ASSIGN(const std::string text,
              output_of({program, "--query-gpu=index,name,uuid,pci.bus_id,memory.total",
                         "--format=csv,noheader,nounits"},
                        limit));
  return parse_smi(text);
}

}  // namespace quad::engine
