// runner/confine.h
//
// How a rank is kept to its limits, also as root: what its first process (rank_init.h) does to
// itself before anything of the job runs, and what all of the rank then has from it by birth. For
// freshly forked processes with one thread. Each blocks for a few system calls; to join groups
// takes the kernel some 15 ms.

#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace quad::runner {

/// Joins the groups of processes below these (cgroup.h: those with limits). 0, or the errno of the
/// first that could not be joined.
int join_groups(const std::vector<std::filesystem::path>& groups);

/// Makes a namespace that shows no group above those that this process is in, where that can be
/// had.
void hide_groups_above();

/// In a mount namespace of its own, with its /proc: shows control groups from `groups` on, and
/// lets nobody write to them. For root, `all` also keeps it from writing to the machine's settings
/// in /sys and /proc, by which it could have programs started outside of its groups. What cannot be
/// done is left: not everything is there everywhere.
void protect_kernel_files(const std::vector<std::filesystem::path>& groups, bool all);

/// Of root: gives up, for itself and all that it starts, the capabilities that reach beyond the
/// rank, such as that to mount or to change its limits. What installing packages, changing users,
/// debugging and pinned memory for RDMA need stays. 0, or an errno.
int give_up_capabilities();

/// The fall-back for a bound on processes where no group can be had: the kernel's own count for
/// each user, which in a user namespace is that of the rank, and which root is not held to.
void limit_processes_of_user(std::uint64_t processes);

}  // namespace quad::runner
