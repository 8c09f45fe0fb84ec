// runner/shell.h
//
// The shell that runs a task's scripts: bash, as SkyPilot's users write for; where the image has
// none, sh, which runs what does without bash's own features. Blocks for a few look-ups in the
// file system; no state.

#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace quad::runner {

struct Shell {
  std::string path;
  bool is_bash = true;
};

/// In the usual places, then in the folders of `path`, which is written as PATH is. nullopt if the
/// image has no shell.
std::optional<Shell> find_shell(std::string_view path);

}  // namespace quad::runner
