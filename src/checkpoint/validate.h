// checkpoint/validate.h
//
// Whether one checkpoint (a file or a folder) is complete, and what it is. The rule is that of the
// framework that wrote it, and each verdict carries the reason as one plain sentence. Knows no
// framework's code and unpickles nothing. Blocks for the reads of the folder and of the ends of its
// files; any thread.
//
// Always holds: kComplete is given only on positive evidence; a file that vanishes in mid-scan or
// cannot be read is never counted as complete; the cost is bounded by `Limits`.

#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/time.h"
#include "checkpoint/file_view.h"

namespace quad::checkpoint {

enum class State {
  kComplete,    ///< may be resumed from
  kIncomplete,  ///< known not to be all there
  kUnknown,     ///< may become either: not settled yet, unreadable, or unprovable
};

enum class Framework {
  kUnknown,      ///< no layout that Quad knows: judged by its files and by being still
  kTorchFile,    ///< one file of torch.save
  kSafetensors,  ///< one .safetensors file, or a sharded index and its files
  kTorchDcp,     ///< torch.distributed.checkpoint
  kHuggingFace,  ///< checkpoint-N of the Transformers Trainer
  kLightning,    ///< *.ckpt, file or folder
  kDeepSpeed,    ///< global_stepN
  kMegatron,     ///< iter_NNNNNNN
  kOrbax,        ///< <step>/ of Orbax
  kDeclared,     ///< complete when the marker file is there that the task declares
};

/// "complete", "incomplete", "unknown".
std::string_view to_string(State state);
/// A stable name for JSON and for people: "torch", "safetensors", "dcp", "huggingface", …
std::string_view to_string(Framework framework);

struct Verdict {
  State state = State::kUnknown;
  Framework framework = Framework::kUnknown;
  std::optional<std::int64_t> step;
  std::optional<std::int64_t>
      training_epoch;      ///< passes over the data, as the name or the file says
  std::uint64_t size = 0;  ///< bytes
  std::size_t files = 0;
  std::int64_t newest_nanos = 0;  ///< mtime of the file written last, since 1970
  std::int64_t oldest_nanos = 0;
  std::optional<WallTime>
      settles_at;      ///< of kUnknown: when it counts as complete if nothing changes
  std::string reason;  ///< "model.pt is cut off after 312 bytes: its zip directory is missing."
};

struct ValidateOptions {
  WallTime now;
  Millis settle = std::chrono::seconds(60);  ///< how long unprovable files must have been still
  std::optional<Millis>
      still_for;       ///< how long the caller itself has seen no change; else taken from mtime
  std::string marker;  ///< a folder is complete if and only if it has this file
  std::optional<Verdict>
      previous;      ///< the complete one before it of the same series: its shape is the pattern
  bool top = false;  ///< the checkpoint is the root itself: other checkpoints may lie below it
  Limits limits;
};

Verdict validate(const FileView& view, const std::filesystem::path& path,
                 const ValidateOptions& options);

}  // namespace quad::checkpoint
