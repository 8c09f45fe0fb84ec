// base/machine.h
//
// Which machine this is, by its own word.

#pragma once

#include <string>

#include "base/result.h"

namespace quad {

/// As it calls itself; empty if it does not say.
std::string host_name();

/// The boot that it is in; "unknown" on one that does not say. kIo if it cannot be read.
Result<std::string> read_boot_id();

}  // namespace quad
