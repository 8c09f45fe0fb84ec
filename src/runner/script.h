// runner/script.h
//
// The script around a task's setup or run, with SkyPilot's meaning: ~/.bashrc, conda,
// PYTHONUNBUFFERED, the workdir, the exports, then the user's lines; no `set -e`, so the exit code
// is that of the last command. It is run as `bash -i FILE` with stderr closed off: an interactive
// bash without a terminal begins with two warnings, and the script's first line gives it its real
// stderr back. In an image without bash it is run as `sh FILE` (shell.h). Pure, but for
// write_script.
//
// The text holds the task's secrets: it is written for its owner's eyes only (0600) and never
// passed in an argument.

#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "runner/order.h"

namespace quad::runner {

enum class ScriptKind { kSetup, kRun };

std::string make_script(ScriptKind kind, const std::vector<Variable>& exports,
                        std::string_view body);

/// Writes a script for the shell to read. Not synced: it is of no use after a crash.
Status write_script(const std::filesystem::path& path, std::string_view text);

}  // namespace quad::runner
