// pool/gpu_names.h
//
// What a GPU is called in task files. Drivers spell one model in many ways ("NVIDIA
// A100-SXM4-80GB", "A100 80GB PCIe"); users ask for it by SkyPilot's name ("A100-80GB"). Pure, any
// thread.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace quad::pool {

/// SkyPilot's name of a model that a driver calls `driver_name`. A model without one keeps its own
/// words, without the maker's: "NVIDIA GeForce GTX 1080 Ti" is "GTX1080-TI". Empty for an empty
/// name.
std::string canonical_gpu(std::string_view driver_name);

/// The model of an AMD device by its PCI device number, such as "MI300X"; empty if it is not known.
/// AMD's compute driver gives no name that users would know.
std::string_view amd_gpu_model(std::int64_t pci_device);

}  // namespace quad::pool
