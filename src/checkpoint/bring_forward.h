// checkpoint/bring_forward.h
//
// Brings the checkpoint that a new attempt resumes from into the attempt's own directory, under the
// same relative name, so that scripts which look there find it and the old attempt's files stay as
// they are. Called by rank 0's runner, behind the fence, before the task's own process starts.
// Blocks for as long as copying takes; POSIX.
//
//   as a rule                  a reflink, else a copy: a script may write again under any name,
//                              also one that carries a step, and through a link it would destroy
//                              the old attempt's good one in mid-write
//   too large to copy          used where it is, without a name in the new directory
//   it is the task's own path  used where it is
//
// Always holds: it is built under a temporary name and renamed, so a crash or a full disk leaves
// nothing half done; called again it cleans up and gives the same result. The record in
// .quad/resumed.json is written before the rename.

#pragma once

#include <cstdint>
#include <filesystem>

#include "base/ids.h"
#include "base/result.h"
#include "checkpoint/copy.h"
#include "checkpoint/select.h"

namespace quad::checkpoint {

struct BringOptions {
  WallTime now;
  std::string marker;                            ///< as in ValidateOptions
  std::uint64_t max_copy_bytes = 512ULL << 30U;  ///< larger ones are used where they are
};

struct Brought {
  std::filesystem::path path;  ///< QUAD_RESUME_FROM
  How how = How::kInPlace;
  std::uint64_t bytes_copied = 0;
  bool was_there = false;  ///< an earlier call had brought it
};

/// Brings `chosen` into `to_root`, the directory of attempt `to_epoch`, which is made if need be.
/// kExhausted when the disk is full.
Result<Brought> bring_forward(const FileView& view, const Candidate& chosen,
                              const std::filesystem::path& to_root, Epoch to_epoch,
                              const BringOptions& options);

/// Records that the attempt begins afresh, since there was nothing valid to resume from.
Status begin_afresh(const std::filesystem::path& to_root, Epoch to_epoch);

}  // namespace quad::checkpoint
