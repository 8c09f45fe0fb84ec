// checkpoint/fence.h
//
// The fence of a job: one small file, <job>/fence, that says which attempt may run. Rank 0's runner
// of a new attempt raises it before anything else; every runner reads it each second and stops its
// rank when it is above its own epoch.
//
// The file is made once, with epoch 1, and overwritten in place ever after: on NFS a fresh open
// then shows the new content at once, which it does not for a file that was renamed. It holds the
// same 64-byte record twice, each with a checksum; the copies are written and synced one after the
// other, so a crash in mid-write leaves one of them whole.
//
// Always holds: the epoch never goes down; a torn, short or foreign record is "unknown", never
// "newer"; a reader never blocks a writer. Each call blocks for as long as the file system does:
// not for the thread that feeds a rank.

#pragma once

#include <filesystem>
#include <optional>

#include "base/ids.h"
#include "base/result.h"
#include "base/time.h"

namespace quad::checkpoint {

struct Fence {
  Epoch epoch;
  WallTime written_at;
  bool operator==(const Fence&) const = default;
};

/// <job>/fence.
std::filesystem::path fence_path(const std::filesystem::path& job_folder);

/// The fence as it stands; nullopt when it is absent or cannot be understood. An Error when the
/// storage does not answer. Neither is a reason to stop a rank.
Result<std::optional<Fence>> read_fence(const std::filesystem::path& job_folder);

/// Raises the fence to `epoch`, durably. Fine if it is there already; kExists if it is higher,
/// which means that a newer attempt has taken over and the caller must leave. Writers exclude each
/// other by flock where there is one.
Status raise_fence(const std::filesystem::path& job_folder, Epoch epoch, WallTime now);

}  // namespace quad::checkpoint
