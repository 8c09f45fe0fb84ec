// checkpoint/pickle.h
//
// Reads a few facts out of a pickle without running it: nothing is imported, nothing is called, no
// object is built. The opcodes are walked with a stack of placeholders, and only integers, short
// strings and the dictionaries that hold them are kept. That is enough for the step inside
// `last.ckpt`, DeepSpeed's world sizes, and the list of file extents in the .metadata of a PyTorch
// distributed checkpoint.
//
// Pure, any thread, O(bytes). Memory is bounded whatever the bytes say. Errors: kInvalid when the
// bytes end before the pickle does, so it is cut off; kUnsupported past the bound or at an opcode
// that makes no sense, which says nothing about the checkpoint itself.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace quad::checkpoint {

struct PickleFacts {
  std::size_t length = 0;  ///< bytes up to and with the stop mark
  // Of the dictionary that is the whole pickle:
  std::optional<std::int64_t> step;            ///< "global_step", "step", "iteration", …
  std::optional<std::int64_t> training_epoch;  ///< "epoch"
  std::optional<std::int64_t> dp_world_size;
  std::optional<std::int64_t> mp_world_size;
  /// File name → the bytes it must have at least, from every object with relative_path, offset and
  /// length.
  std::map<std::string, std::uint64_t> extents;
};

Result<PickleFacts> read_pickle(std::string_view bytes);

}  // namespace quad::checkpoint
