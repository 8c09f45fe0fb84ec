// runner/git.h
//
// Brings a git repository to a place, again and again: it is fetched into the repository that is
// there, and what the new commit holds is written over what is there, as brought.h says. So a
// branch that was switched, a tag, a commit and another url all arrive, and what tasks wrote stays;
// commits that they made are kept as a branch of their own.
//
// Git gets none of the job's configuration (a HOME of its own, no system's or user's file, no
// hooks), asks nobody anything, and speaks only with the transports of base/git_address.h. Blocks;
// for workers.

#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "runner/brought.h"
#include "runner/order.h"

namespace quad::runner {

/// Brings `mount.url` at `mount.ref` to `place`, a folder. Sentences for the job's story are added
/// to `notes`.
Status bring_git(const Mount& mount, const Order& order, const std::filesystem::path& place,
                 Brought& memory, std::vector<std::string>& notes);

}  // namespace quad::runner
