// runner/how_it_ended.h
//
// What a rank's result says about the end of its script.

#pragma once

#include "runner/cgroup.h"
#include "runner/order.h"
#include "runner/result_file.h"

namespace quad::runner {

/// By the script's wait status. Pure.
RankResult result_of_script(int wait_status);

/// Adds to `result`, of a rank with these limits, that the kernel has killed a process of it for
/// want of memory since `at_start`, if it has and if that may be why the script ended as it did.
/// Blocks for a few small files.
void tell_of_memory(RankResult& result, const ControlGroups& groups, const MemoryFacts& at_start);

/// Adds to `result` of a script that ended because programs could not be started (126), which
/// variables the kernel takes to none: it has bounds on the length of one, and of all. Pure, but
/// for a look at the limit of the stack, from which the second follows.
void tell_of_long_variables(RankResult& result, const Order& order);

}  // namespace quad::runner
