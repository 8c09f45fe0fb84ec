// engine/local/detect.h
//
// What this machine has: CPUs, memory, GPUs. Reads /proc and /sys (whose roots tests replace), loads NVML at run time
// when it is installed. Blocks for some milliseconds, with NVML for up to a second; at start only.

#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace quad::engine {

struct Machine {
  std::int64_t cpu_milli = 0;     ///< what this process may use: affinity and cgroup quota counted
  std::int64_t memory_bytes = 0;  ///< the machine's, or its cgroup's limit if that is smaller
  std::vector<std::string> gpus;  ///< each one's name as its driver gives it, in device order
  bool amd = false;               ///< the GPUs are AMD's, and HIP_VISIBLE_DEVICES hides them
};

/// Where to look; "/" but for tests.
Machine detect_machine(const std::filesystem::path& root = "/");

/// SkyPilot's name for a GPU: "NVIDIA A100-SXM4-80GB" is "A100-80GB", "NVIDIA H100 80GB HBM3" is "H100". An unknown
/// name keeps its own words, joined by "-". Pure.
std::string canonical_gpu(std::string_view driver_name);

}  // namespace quad::engine
