// base/remove_tree.h
//
// Removes what somebody else has made: folders nested beyond every path's length, names that are
// links, modes that forbid it. A link is removed, never followed: nothing is done by a path, so
// nothing outside of the tree is touched whatever is moved there meanwhile. Takes three descriptors
// and a few KiB, however deep or wide the tree is: a folder inside a folder is first moved up to
// the top, so a tree that could not be removed whole may be left with other names inside. Blocks
// for as long as the file system does.

#pragma once

#include <atomic>
#include <filesystem>
#include <string>

#include "base/result.h"

namespace quad {

/// Removes the file, link or tree `name` in the folder that `folder` is open on; what is not there
/// is removed. kUnavailable once `stop` is true, else kIo that says what could not be removed.
Status remove_tree_at(int folder, const std::string& name, const std::atomic<bool>* stop = nullptr);

/// The same of a path. Its last part is not followed, those above are.
Status remove_tree(const std::filesystem::path& path, const std::atomic<bool>* stop = nullptr);

}  // namespace quad
