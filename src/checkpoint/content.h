// checkpoint/content.h
//
// Whether one file is all there, judged by its own format and without any framework: zip (PyTorch
// .pt, .pth, .ckpt, .bin, NumPy .npz), safetensors, pickle. Nothing is ever unpickled. Blocks for a
// few reads: the first bytes, the last 64 KiB, the zip directory, and some local headers; never the
// tensors.
//
// What is proved is that no byte is missing at the end and the structure agrees with itself. Bytes
// damaged inside tensors are not found here: that takes hashes over everything, which is not this
// module's work.

#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"
#include "checkpoint/file_view.h"
#include "checkpoint/pickle.h"

namespace quad::checkpoint {

enum class Proof {
  kWhole,     ///< its format says that nothing is missing
  kUnproven,  ///< its format cannot say (a bare pickle, an unknown format), or it could not be read
  kBroken,    ///< it is cut off or contradicts itself
  kGone,      ///< it vanished meanwhile
};

struct FileCheck {
  Proof proof = Proof::kUnproven;
  std::string what;  ///< the predicate of a sentence: "is cut off: its zip directory is missing"
  std::optional<PickleFacts> inside;  ///< of a PyTorch zip file, if asked for and readable
};

/// Judges the file by its first bytes and its extension. `look_inside` also reads the small pickle
/// of a PyTorch file.
FileCheck check_file(const FileView& view, const std::filesystem::path& path, const FileInfo& info,
                     const Limits& limits, bool look_inside = false);

// One format each; `size` is that of the file. Exposed for tests.
FileCheck check_zip(const FileView& view, const std::filesystem::path& path, std::uint64_t size,
                    const Limits& limits, bool look_inside = false);
FileCheck check_safetensors(const FileView& view, const std::filesystem::path& path,
                            std::uint64_t size, const Limits& limits);

}  // namespace quad::checkpoint
