#include "engine/local/nvidia.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
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
  int (*mig)(void*, unsigned*, unsigned*) = nullptr;  // current and pending; not in old drivers
};

constexpr int kNoPermission = 4;

constexpr const char* kSliced =
    "it is divided into slices (MIG), which Quad does not place; turn that off with "
    "'nvidia-smi -mig 0' to use it as a whole";

std::string explain(int code) {
  switch (code) {
    case kNoPermission:
      return "this user may not use the driver; see the permissions of /dev/nvidia*";
    case 9:
      return "the driver is not loaded; try 'modprobe nvidia', and see the kernel's log";
    case 15:
      return "the GPU has fallen off the bus; restart the machine";
    case 18:
      return "the driver in the kernel and the library are of different versions, as after an "
             "update; restart the machine";
    default:
      return fmt::format("its code is {}", code);
  }
}

template <typename Function>
bool find_function(void* library, const char* name, Function*& out) {
  out = reinterpret_cast<Function*>(::dlsym(library, name));
  return out != nullptr;
}

Gpu ask_gpu(const Nvml& nvml, unsigned index, void* device) {
  Gpu gpu;
  gpu.index = static_cast<std::int32_t>(index);
  std::array<char, 256> text{};
  if (const int code = nvml.name(device, text.data(), text.size() - 1); code == 0) {
    gpu.name = text.data();
  } else {
    gpu.unusable = fmt::format("it does not answer: {}", explain(code));
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
  unsigned current = 0;
  unsigned pending = 0;
  if (nvml.mig != nullptr && nvml.mig(device, &current, &pending) == 0 && current == 1) {
    gpu.unusable = kSliced;
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
  find_function(library, "nvmlDeviceGetMigMode", nvml.mig);
  const auto refused = [](int code) {
    return error(ErrorCode::kUnavailable,
                 fmt::format("NVIDIA's management library does not work: {}", explain(code)));
  };
  if (const int code = nvml.init(); code != 0) {
    return refused(code);
  }
  std::vector<Gpu> gpus;
  unsigned devices = 0;
  if (const int code = nvml.count(&devices); code != 0) {
    nvml.shutdown();
    return refused(code);
  }
  unsigned number = 0;
  for (unsigned i = 0; i < devices; ++i) {
    void* device = nullptr;
    const int code = nvml.handle(i, &device);
    if (code == kNoPermission) {
      continue;  // in a container that was given others; CUDA does not count it either
    }
    if (code == 0) {
      gpus.push_back(ask_gpu(nvml, number, device));
    } else {
      // The others keep their numbers.
      Gpu& lost = gpus.emplace_back();
      lost.index = static_cast<std::int32_t>(number);
      lost.unusable = fmt::format("it does not answer: {}", explain(code));
    }
    ++number;
  }
  nvml.shutdown();
  // The library promises no order, and CUDA is told to count in that of the bus.
  if (std::none_of(gpus.begin(), gpus.end(), [](const Gpu& gpu) { return gpu.bus_id.empty(); })) {
    std::sort(gpus.begin(), gpus.end(),
              [](const Gpu& a, const Gpu& b) { return a.bus_id < b.bus_id; });
    for (std::size_t i = 0; i < gpus.size(); ++i) {
      gpus[i].index = static_cast<std::int32_t>(i);
    }
  }
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
      } else if (line.starts_with("Device Minor:")) {
        const fs::path slices = proc / "driver/nvidia/capabilities" /
                                fmt::format("gpu{}", trim(line.substr(13))) / "mig";
        std::error_code unknown;
        for (fs::directory_iterator slice(slices, unknown), last; !unknown && slice != last;
             slice.increment(unknown)) {
          if (slice->path().filename().string().starts_with("gi")) {
            gpu.unusable = kSliced;
          }
        }
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
    const bool whole = fields.size() == 5 || fields.size() == 6;
    const auto index = whole ? parse_number<decltype(gpu.index)>(trim(fields[0])) : std::nullopt;
    if (!index || *index < 0 || trim(fields[1]).empty() || !trim(fields[2]).starts_with("GPU-") ||
        std::any_of(gpus.begin(), gpus.end(),
                    [&](const Gpu& other) { return other.index == *index; })) {
      return error(ErrorCode::kInvalid,
                   fmt::format("nvidia-smi gave a line that is not understood: '{}'", trim(line)));
    }
    gpu.index = *index;
    gpu.name = trim(fields[1]);
    gpu.uuid = trim(fields[2]);
    gpu.bus_id = kernel_bus_id(fields[3]);
    // "[N/A]" where memory is shared with the CPU
    if (const auto mebibytes = parse_number(trim(fields[4]))) {
      gpu.memory_bytes = *mebibytes << 20U;
    }
    if (fields.size() == 6 && trim(fields[5]) == "Enabled") {
      gpu.unusable = kSliced;
    }
    gpus.push_back(std::move(gpu));
  }
  return gpus;
}

Result<std::vector<Gpu>> gpus_of_smi(const std::string& program, Millis limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  const auto ask = [&](const char* fields) {
    const auto left = std::chrono::ceil<Millis>(end - std::chrono::steady_clock::now());
    return output_of({program, fields, "--format=csv,noheader,nounits"}, left);
  };
  auto text = ask("--query-gpu=index,name,uuid,pci.bus_id,memory.total,mig.mode.current");
  if (!text.ok() && text.error().code == ErrorCode::kUnavailable) {
    // An older one, which does not know of slices.
    text = ask("--query-gpu=index,name,uuid,pci.bus_id,memory.total");
  }
  if (!text.ok()) {
    return text.error();
  }
  return parse_smi(*text);
}

}  // namespace quad::engine
