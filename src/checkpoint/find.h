// checkpoint/find.h
//
// Finds what may be a checkpoint below a root, by names and folder listings alone; reads no
// content. Blocks for one stat for each name; bounded by Limits. Links to folders are candidates,
// but are not searched. Temporary and hidden names are left out, except Quad's own `.quad/kept`.
// Any thread.

#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/ids.h"
#include "checkpoint/file_view.h"
#include "checkpoint/names.h"
#include "checkpoint/validate.h"

namespace quad::checkpoint {

/// A folder to look in: the directory of one attempt, or a path that the task names.
struct Root {
  std::filesystem::path path;
  Epoch epoch;  ///< the attempt it belongs to; for a path of the task's own, the attempt that asks
  bool users_own = false;  ///< quad.checkpoint.path: used where it is, never brought forward
};

/// One thing that may be a checkpoint.
struct Found {
  std::filesystem::path path;
  std::string
      relative;  ///< to the root; "" is the root itself. Without ".quad/kept/" for a kept copy.
  FileInfo info;
  NameFacts name;
  bool kept = false;  ///< Quad's copy of a file that the script overwrites in place
  bool top = false;   ///< validate only what lies directly in it (it holds other candidates, or is
                      ///< the root)
  /// Names of the files beside it that belong to the same step (optimizer, metadata): brought
  /// along.
  std::vector<std::string> companions;
};

struct FindResult {
  std::vector<Found> found;  ///< by relative path
  bool cut = false;          ///< a bound was reached: there may be more
};

/// kNotFound if the root does not exist; an unreadable folder below it is passed over.
Result<FindResult> find_candidates(const FileView& view, const Root& root,
                                   const std::string& marker, const Limits& limits);

/// The verdict over a candidate and its companions: as bad as the worst of them.
Verdict validate_found(const FileView& view, const Found& found, ValidateOptions options);

/// What tells one series of checkpoints from another: the folder below the root and the name but
/// for its step. Equal in the directories of all attempts.
std::string series_of(const Found& found);

/// Where kept copies lie below a root.
inline constexpr std::string_view kKeptFolder = ".quad/kept";

}  // namespace quad::checkpoint
