// checkpoint/keep.h
//
// What is kept and what may go: the copy of the last valid checkpoint of a script that overwrites
// its only one in place, and the choice of the checkpoints that retention may delete.

#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/result.h"
#include "checkpoint/copy.h"
#include "checkpoint/select.h"

namespace quad::checkpoint {

struct KeepOptions {
  WallTime now;
  std::uint64_t max_copy_bytes = 64ULL
                                 << 30U;  ///< where the file system has no reflink; 0: reflink only
};

struct Kept {
  std::filesystem::path path;
  How how = How::kReflink;
  std::uint64_t bytes_copied = 0;
};

/// Whether a copy is worth having: the name carries no step, so the next save will write over it.
bool needs_a_copy(const Found& found);

/// Copies a checkpoint that is complete now into <root>/.quad/kept/, in place of the copy before
/// it, which stays until the new one is there. kUnavailable if the script wrote meanwhile,
/// kUnsupported if it is too large to copy, and kInvalid if what was copied is not complete; in
/// each case the copy before it stays. Blocks for the copy; call it away from the thread that feeds
/// a rank.
Result<Kept> keep_copy_of_last_valid(const FileView& view, const Found& found,
                                     const std::filesystem::path& root, const KeepOptions& options);

/// Removes a checkpoint and its companions so that no half of it can pass for a whole at any
/// moment.
Status remove_checkpoint(const Found& found);

/// What may be deleted so that of each series the `keep` newest states stay (never fewer than two):
/// complete checkpoints, and incomplete ones of attempts before `current` that are older than all
/// that stays. Newest in either order: by step, and by attempt and time of writing, since a counter
/// may begin again, in a later attempt or a later stage. One state that several attempts hold,
/// copied forward, counts once and stays or goes in all of them. Never a path of the task's own,
/// never one without a step, never a kept copy. Pure, O(n log n).
std::vector<Candidate> to_delete(std::vector<Candidate> candidates, std::size_t keep,
                                 Epoch current);

}  // namespace quad::checkpoint
