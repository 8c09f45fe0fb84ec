// runner/child.h
//
// What a freshly forked child of the runner does first: it gives up the runner's files and signals.
// Called in children only.

#pragma once

#include <initializer_list>

namespace quad::runner {

/// Keeps 0, 1 and 2, moves `files` (8 at most) to 3, 4, … in this order, and closes every other
/// file.
void keep_only_files(std::initializer_list<int> files);

/// Default handlers and an empty mask.
void reset_signals();

}  // namespace quad::runner
