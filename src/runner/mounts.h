// runner/mounts.h
//
// Brings a rank's workdir and mounts: blobs from the server, files over HTTP, git repositories.
// What was brought before to the same place is known (brought.h), so bringing again is a sync.
// Blocks for the whole of it; for a process of its own in the rank's namespaces and limits
// (rank_init.h), as git may run what the job says. What fails is a sentence that names the mount,
// and no path of the server's.

#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "runner/order.h"
#include "runner/worker.h"

namespace quad::runner {

/// Where a mount's dst lies: "~/x" in `home`, "x" in the workdir, "/x" where it says. Pure.
/// kInvalid for a dst with
/// "..".
Result<std::filesystem::path> place_of(std::string_view dst, const std::filesystem::path& home);

/// Outer places before those inside them, whatever their order was. Pure.
std::vector<Mount> outer_first(std::vector<Mount> mounts, const std::filesystem::path& home);

/// What it takes.
struct Bringing {
  std::string key;  ///< of the rank
  std::filesystem::path home;
  int lists = -1;  ///< open on the folder of what was brought to this HOME
  int blobs = -1;  ///< a blob_door.h, where there are uploads
};

/// Brings one. Sentences for the job's story are added to `notes`.
Status bring(const Mount& mount, const Order& order, const Bringing& with,
             std::vector<std::string>& notes);

/// Brings all of an order's, and says so: messages with `note`, and a last one with `fetched` or
/// `error`.
void bring_all(const Order& order, const Bringing& with, const WorkerOutput& output);

}  // namespace quad::runner
