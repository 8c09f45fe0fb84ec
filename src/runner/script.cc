#include "runner/script.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/file.h"
#include "base/text.h"
#include "runner/own_file.h"

namespace quad::runner {
namespace {

// SkyPilot asks `conda info --base`, which starts Python. Here the base is taken from where conda
// is: no process is started, and nothing at all where there is no conda. A SIGTERM is a stop: bash
// would carry on with the next line once the command that it waits for has died of it, so the
// script ends, unless the task sets a trap of its own. An interactive bash writes a history of what
// it ran, secrets too; here nobody would ever read it. And it would take a `!` for an old command,
// even in double quotes: both end here, whatever ~/.bashrc has set. An image without bash has sh
// run all of this, which must be able to read it, hence the eval; its users have no ~/.bashrc and
// no conda.
constexpr std::string_view kBegin = R"(exec 2>&1
unset HISTFILE
if [ -n "$BASH_VERSION" ]; then
  [ -f ~/.bashrc ] && source ~/.bashrc
  if [ -n "$CONDA_EXE" ]; then
    set -- "${CONDA_EXE%/*/*}"
  elif hash conda 2>/dev/null; then
    eval 'set -- "${BASH_CMDS[conda]%/*/*}"'
  fi
  if [ -f "$1/etc/profile.d/conda.sh" ]; then
    set -a
    . "$1/etc/profile.d/conda.sh" >/dev/null 2>&1 || true
    set +a
  fi
  set --
  set +o history +o histexpand
fi
)";

constexpr std::string_view kMiddle = R"(export PYTHONUNBUFFERED=1
cd ~/sky_workdir
)";

constexpr std::string_view kTrap = "trap 'exit 143' TERM\n";

bool is_name(std::string_view name) {
  const auto is_letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  return !name.empty() && is_letter(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return is_letter(c) || (c >= '0' && c <= '9'); });
}

}  // namespace

std::string make_script(ScriptKind kind, const std::vector<Variable>& exports,
                        std::string_view body) {
  std::string text;
  text.reserve(kBegin.size() + body.size() + 64 * exports.size() + 1024);
  text += kBegin;
  if (kind == ScriptKind::kSetup) {
    text += "unset CUDA_VISIBLE_DEVICES\n";
  }
  text += kMiddle;
  for (const Variable& variable : exports) {
    if (!is_name(variable.name)) {
      continue;  // the shell would take it for a command
    }
    text += "export ";
    text += variable.name;
    text += '=';
    text += shell_quote(variable.value);
    text += '\n';
  }
  text += kTrap;
  text += body;
  text += '\n';
  return text;
}

Status write_script(const std::filesystem::path& path, std::string_view text) {
  QUAD_ASSIGN(const UniqueFd fd, create_own_file(path, 0600));
  return write_all(fd.get(), text);
}

}  // namespace quad::runner
