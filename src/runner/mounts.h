// runner/mounts.h
//
// Brings a rank's workdir and mounts: blobs from the server, files over HTTP, git repositories.
// Blocks for the whole of it; for workers. What fails is a sentence that names the mount.

#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"
#include "runner/order.h"
#include "runner/start.h"

namespace quad::runner {

/// Where a mount's dst lies: "~/x" in `home`, "x" in the workdir, "/x" where it says. Pure.
/// kInvalid for a dst with
/// "..".
Result<std::filesystem::path> place_of(std::string_view dst, const std::filesystem::path& home);

/// Brings one.
Status bring(const Mount& mount, const Start& start, const Order& order,
             const std::filesystem::path& home);

}  // namespace quad::runner
