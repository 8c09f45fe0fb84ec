// engine/local/nvidia.h
//
// NVIDIA GPUs from the three that know them: the management library, which knows most and is loaded
// at run time so that Quad neither needs its header to build nor the driver to start; the kernel
// driver's files; the nvidia-smi program. Each gives the GPUs in PCI order, with `model` not yet
// filled in. One that is divided into slices (MIG) or does not answer is there, but unusable: a job
// would get a slice where it asked for the whole, or nothing.

#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "engine/local/detect.h"

namespace quad::engine {

/// kNotFound without the library, kUnavailable with a sentence if it does not work, kTimeout if it
/// takes longer than `limit` (its thread is then left behind: a call that hangs in the driver
/// cannot be ended).
Result<std::vector<Gpu>> gpus_of_nvml(const std::string& library, Millis limit);

/// From `proc`/driver/nvidia/gpus/*/information.
std::vector<Gpu> gpus_of_driver(const std::filesystem::path& proc);

/// kNotFound without the program; kInvalid if its answer is not understood.
Result<std::vector<Gpu>> gpus_of_smi(const std::string& program, Millis limit);

/// The answer of `nvidia-smi --query-gpu=index,name,uuid,pci.bus_id,memory.total,mig.mode.current
/// --format=csv,noheader,nounits`; the last may be missing. Pure.
Result<std::vector<Gpu>> parse_smi(std::string_view text);

}  // namespace quad::engine
