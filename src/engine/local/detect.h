// engine/local/detect.h
//
// What this machine has for ranks to use: CPUs, memory, GPUs. Reads /proc and /sys, and asks
// NVIDIA's library or its program where there is a driver. Blocks for some milliseconds, with a
// driver for up to a second, with a broken one for at most twice `limit`: for start only.

#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/time.h"

namespace quad::engine {

struct Gpu {
  std::int32_t index = 0;         ///< by which CUDA_VISIBLE_DEVICES names it, counted in PCI order
  std::string name;               ///< as its driver calls it
  std::string model;              ///< as a task file calls it
  std::string uuid;               ///< "GPU-…"; empty for AMD
  std::string bus_id;             ///< "0000:3b:00.0"; may be empty
  std::int64_t memory_bytes = 0;  ///< 0: not known
  std::string unusable;           ///< why it cannot be offered; empty: it can
};

struct Machine {
  std::int64_t cpu_milli = 0;     ///< what this process may use: affinity and cgroup quotas counted
  std::int64_t memory_bytes = 0;  ///< the machine's, or a cgroup's limit if that is smaller
  std::vector<Gpu> gpus;          ///< usable ones, in order of their index
  std::vector<std::string> remarks;  ///< what is wrong with GPUs or their driver, a sentence each
  std::string gpu_env;  ///< the variable that hides GPUs from a program; empty without GPUs
  std::string
      gpu_source;  ///< who told: "NVML", "the driver", "nvidia-smi", "kfd"; empty without GPUs
};

/// Where to look. The defaults are this machine; tests bring trees of their own.
struct DetectOptions {
  std::filesystem::path proc = "/proc";
  std::filesystem::path sys = "/sys";
  std::string nvml = "libnvidia-ml.so.1";  ///< empty: not asked
  std::string nvidia_smi = "nvidia-smi";   ///< empty: not asked
  Millis limit{10'000};                    ///< for the library, and for the program
  std::optional<std::int64_t> cpus;  ///< usable by this process; by default what the kernel says
  /// CUDA_VISIBLE_DEVICES of this process: another scheduler may have given it only some. nullopt:
  /// all.
  std::optional<std::string> visible_nvidia;
  std::optional<std::string> visible_amd;  ///< HIP_VISIBLE_DEVICES, likewise
};

/// Detection never fails: what cannot be read is not there.
Machine detect_machine(const DetectOptions& options = {});

/// The GPUs that a *_VISIBLE_DEVICES variable leaves, as CUDA reads it: numbers or beginnings of
/// UUIDs, up to the first that names none or several; none at all if one is named twice. A slice of
/// a GPU ("MIG-…") names none. Pure.
std::vector<Gpu> visible_gpus(const std::vector<Gpu>& gpus, std::string_view variable);

/// The GPUs of the model that there are most of, the first of them on a tie: a node offers one
/// model. Pure.
std::vector<Gpu> main_gpus(const std::vector<Gpu>& gpus);

}  // namespace quad::engine
