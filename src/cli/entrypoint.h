// cli/entrypoint.h
//
// What `launch` and `exec` are to run: whether their words name a task file or are a command, and
// whether they can only be a slip. A slip is refused here, before anything is sent, since as a
// command it would wait for its nodes and then fail with 127. One thread; looks at files here, asks
// no server.

#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace quad::cli {

struct EntryWords {
  std::vector<std::string> words;  ///< those before --, if there is one
  /// Those behind --: another program's, which are taken as they are. Empty: there is no --.
  std::optional<std::vector<std::string>> command;
};

/// Where a relative path in a command will be looked for.
struct WorkFolder {
  enum class Kind {
    kNone,     ///< the job begins in an empty folder
    kLocal,    ///< in what is brought from `path`
    kUnknown,  ///< in a git repository, or on a cluster
  };
  Kind kind = Kind::kNone;
  std::filesystem::path path;
};

/// What is to run: the text of a task file, or a command.
struct Entry {
  std::string file;  ///< its path; empty for a command
  std::string text;
  std::string warning;  ///< a sentence about a command that is likely to fail; mostly empty
};

/// One word that names a file is a task file, unless it is a program or a script; one other word is
/// a line for a shell; several are a program and its arguments. kInvalid for what is neither: a
/// word too many beside a task file, a folder, a file that is not there or not brought.
Result<Entry> read_entry(const EntryWords& words, const WorkFolder& work);

}  // namespace quad::cli
