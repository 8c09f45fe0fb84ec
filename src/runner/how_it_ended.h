// runner/how_it_ended.h
//
// What a rank's result says about the end of its script.

#pragma once

#include "runner/process.h"
#include "runner/result_file.h"

namespace quad::runner {

/// By the script's wait status. Pure.
RankResult result_of_script(int wait_status);

/// Adds to `result`, of a rank that began with `rank`, that the kernel has killed a process of it
/// for want of memory, if it has and if that may be why the script ended as it did. Blocks for two
/// small files.
void tell_of_memory(RankResult& result, const RankProcess& rank);

}  // namespace quad::runner
