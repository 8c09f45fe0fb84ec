// cli/tree.h
//
// Walks a folder that a job is to bring, and decides what of it goes along.
//
// What stays behind: with a .skyignore at the top, what that says, and nothing else does. Without
// one, in a git repository what git itself ignores, so never what is tracked; each repository
// inside is asked for its own. Outside of any, what the .gitignore files in the folder say. A
// folder that its own repository ignores was named all the same: then only the .gitignore files in
// it count. `.git` is never ignored but by .skyignore. A Quad server's data never goes along, nor
// what is no file, folder or link.
//
// Memory is bounded by the folders between the top and where the walk is. Blocks for as long as the
// disk does.

#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace quad::cli {

/// How many there are, and the first few of them.
struct Sample {
  static constexpr std::size_t kShown = 5;
  std::uint64_t count = 0;
  std::vector<std::string> names;

  void add(std::string name);
  /// "a, b and 3 more"
  [[nodiscard]] std::string text() const;
};

/// What the ignore rules leave behind.
struct LeftBehind {
  static constexpr std::size_t kShown = 5;
  struct Part {
    std::string name;  ///< below the source; a folder's with a slash at its end
    std::uint64_t bytes = 0;
  };
  std::string rules;  ///< whose: ".skyignore", "git" or ".gitignore"
  std::uint64_t files = 0;
  std::uint64_t bytes = 0;
  std::uint64_t parts = 0;    ///< ignored folders and files, without what is in the folders
  bool counted = true;        ///< false: there is more, which was too much to count
  std::vector<Part> largest;  ///< of the parts, the largest first
};

struct Contents {
  std::uint64_t files = 0;  ///< and links; folders do not count
  std::uint64_t bytes = 0;
  LeftBehind left_behind;
  Sample odd;               ///< sockets, pipes and devices
  Sample data_directories;  ///< of Quad servers
  Sample vanished;          ///< between their listing and their reading
  Sample outside;           ///< links that lead out of the source: "a -> /b"
  Sample dangling;          ///< links that lead nowhere
  std::string without_git;  ///< why git was not asked, where it should have been
};

/// Something that goes along.
struct Found {
  const std::string& name;  ///< below the source
  const std::filesystem::path& path;
  const struct stat& info;
  const std::string& target;  ///< of a link: relative if it leads to something in the source
};

/// Gets a folder before what is in it; files in the same order each time. kNotFound: it vanished.
using Take = std::function<Status(const Found&)>;

/// kInvalid if `source` is, or is in, a server's data directory.
Result<Contents> walk(const std::filesystem::path& source, const Take& take);

/// Refuses what is, or is in, a server's data directory. `path` is one without links.
Status check_not_quads_own(const std::filesystem::path& path);

}  // namespace quad::cli
