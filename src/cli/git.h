// cli/git.h
//
// Asks git what it ignores and what it tracks: the whole answer, of every place that git looks at
// (the index, .git/info/exclude, .gitignore files of folders above, core.excludesFile).
// Repositories may be anybody's, so git runs with nothing in effect that could start a program or
// reach the network, takes no locks, and writes nothing. Three short-lived processes for a
// repository; a silence of half a minute ends the asking. One thread; blocks.

#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace quad::cli {

/// Whether git would look for a repository there: the folder, or one above it, has a `.git`.
/// The folder that has it; nullopt if none does.
std::optional<std::filesystem::path> find_repository(const std::filesystem::path& folder);

class GitProcess;

class GitRepository {
 public:
  /// The repository that `folder`, a path without links, is in. kUnavailable, with why, if git
  /// cannot be asked: it is not installed, or finds no repository or a damaged one.
  static Result<std::unique_ptr<GitRepository>> open(const std::filesystem::path& folder);
  ~GitRepository();
  GitRepository(const GitRepository&) = delete;
  GitRepository& operator=(const GitRepository&) = delete;

  /// The top of its work tree.
  [[nodiscard]] const std::filesystem::path& top() const { return top_; }
  /// Whether the rules, as they are above `folder`, ignore `folder` itself, and so all in it.
  [[nodiscard]] bool ignores_folder() const { return ignores_folder_; }

  /// Which of the names in a folder below ("" or "a/b/") match the rules; those of an ignored
  /// folder all do. Whether they are tracked is not looked at.
  Result<std::vector<bool>> matching(const std::string& below,
                                     const std::vector<std::string>& names);
  /// Whether the path below `folder` is in the index, or, for one with a slash at its end, whether
  /// anything in it is. To be asked in ascending order of bytes: the index is read along, not kept.
  Result<bool> tracked(std::string_view path);

 private:
  GitRepository() = default;
  Status next_entry();

  std::filesystem::path top_;
  bool ignores_folder_ = false;
  std::unique_ptr<GitProcess> rules_;
  std::unique_ptr<GitProcess> index_;
  std::optional<std::string> entry_;  ///< of the index: the first that is not before what was asked
  std::set<std::string, std::less<>> submodules_;  ///< of the entries so far
};

}  // namespace quad::cli
