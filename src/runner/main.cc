// quad-runner FOLDER: the small program beside every rank. See docs/runner-protocol.md.
// quad-runner install FOLDER [FROM]: brings it into a pod. See runner/install.h.
// quad-runner rsh HOST COMMAND…: mpirun's way to the other ranks. See runner/launch_agent.h.

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <string_view>

#include "base/time.h"
#include "runner/folder_lock.h"
#include "runner/install.h"
#include "runner/launch_agent.h"
#include "runner/session.h"
#include "runner/signals.h"
#include "runner/start.h"

namespace {

int fail(std::string_view message) {
  std::fprintf(stderr, "quad-runner: %.*s\n", static_cast<int>(message.size()), message.data());
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--version") {
    std::puts("quad-runner " QUAD_VERSION);
    return 0;
  }
  if (argc >= 2 && std::string_view(argv[1]) == "install") {
    if (argc < 3 || argc > 4) {
      return fail("write `quad-runner install FOLDER [FROM]`");
    }
    const auto done =
        quad::runner::install(argv[2], argc == 4 ? argv[3] : quad::runner::kStartFolder);
    return done.ok() ? 0 : fail(done.error().message);
  }
  if (argc >= 2 && std::string_view(argv[1]) == "rsh") {
    return quad::runner::run_launch_agent({argv + 2, argv + argc});
  }
  if (argc != 2 || argv[1][0] == '-') {
    return fail("give one folder that holds start.json");
  }
  // As the first process of a container it would otherwise not even be told of a SIGTERM.
  quad::runner::prepare_signals();
  std::error_code missing;
  const std::filesystem::path folder = std::filesystem::canonical(argv[1], missing);
  if (missing) {
    return fail(fmt::format("the folder {} is not there", argv[1]));
  }
  const auto start = quad::runner::read_start(folder);
  if (!start.ok()) {
    return fail(start.error().message);
  }
  const auto held = quad::runner::hold_folder(folder);
  if (!held.ok()) {
    (void)fail(held.error().message);
    return held.error().code == quad::ErrorCode::kExists ? 3 : 2;
  }
  const quad::SystemClock clock;
  return quad::runner::run_session(start.value(), folder, clock);
}
