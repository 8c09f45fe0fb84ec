// engine/local/control_group.h
//
// Clearing up control groups of ranks whose runner was killed: a runner that leaves in order
// removes its own. A few system calls for each group below it.

#pragma once

#include <filesystem>

namespace quad::engine {

/// Kills what is left in a control group of version 2, and removes the group with all groups that
/// the rank made below it. False if it is still busy: the kernel may take a moment to let go of the
/// last dead process. A folder that is no control group is removed if it is empty, and let alone
/// otherwise.
bool remove_control_group(const std::filesystem::path& group);

}  // namespace quad::engine
