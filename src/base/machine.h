// base/machine.h
//
// Which machine this is, by its own word, and what this process may do on it.

#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace quad {

/// As it calls itself; empty if it does not say.
std::string host_name();

/// The boot that it is in; "unknown" on one that does not say. kIo if it cannot be read.
Result<std::string> read_boot_id();

/// Lets this process open so many files at once, or as many as its hard limit allows; never fewer
/// than it may already. Returns how many it then may; 0 if that is not known.
std::uint64_t allow_open_files(std::uint64_t count);

/// No core dump of this process, and no look into its memory by others of its user: it holds keys
/// and tokens. What it starts has dumps as its limits say.
void forbid_core_dumps();

}  // namespace quad
