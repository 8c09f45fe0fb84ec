// checkpoint/names.h
//
// What the name of a checkpoint says: its step, its training epoch, whether it is only a temporary
// name. Pure, any thread, O(length). Names are other people's: any bytes, any length.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace quad::checkpoint {

/// How sure it is that the number is a step: "step-120" and "1200" are; "model_1200" only looks
/// like it.
enum class StepSource { kNone, kTrailingNumber, kAllDigits, kKeyword };

struct NameFacts {
  std::optional<std::int64_t> step;
  std::optional<std::int64_t> training_epoch;  ///< passes over the data, not Quad's attempts
  StepSource source = StepSource::kNone;
};

/// "epoch=3-step=1200.ckpt" is step 1200 of training epoch 3; "model-00001-of-00002.bin" has
/// neither.
NameFacts facts_of_name(std::string_view name);

/// Names under which writers prepare what they rename later: tmp-*, *.tmp, *.partial, .*,
/// *.orbax-checkpoint-tmp-*, …
bool is_temporary_name(std::string_view name);

/// The name with the digits of its step as "#": equal for the files that play the same part in two
/// checkpoints.
std::string shape_of_name(std::string_view name);

/// Whether the name ends in an extension that checkpoints are stored under (.pt, .safetensors, …).
bool is_checkpoint_file_name(std::string_view name);
/// Whether the name is that of a part that is of no use alone: optimizer.pt, rng_state_0.pth,
/// config.json, …
bool is_side_file_name(std::string_view name);

/// The lower-case extension with its dot, or "".
std::string extension_of(std::string_view name);

/// A name as a message may hold it: control characters and bad UTF-8 as "?", at most 200 bytes.
std::string shown(std::string_view name);

}  // namespace quad::checkpoint
