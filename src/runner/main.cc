// quad-runner FOLDER: the small program beside every rank. See docs/runner-protocol.md.
// quad-runner install|keep FOLDER [FROM [TIER JOB HOME [UID:GID]]], installed FOLDER: bring it into
// a pod, and make the pod's folders in the hot tier. See runner/install.h and runner/hot_folders.h.
// quad-runner rsh HOST COMMAND…: mpirun's way to the other ranks. See runner/launch_agent.h.

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/machine.h"
#include "base/time.h"
#include "runner/folder_lock.h"
#include "runner/hot_folders.h"
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

/// The hook that waits for it holds the kubelet back, which would wait for it without end.
constexpr quad::Millis kInstallLimit{60'000};

int bring_into_pod(std::string_view verb, const std::vector<std::string>& arguments) {
  const bool waits = verb == "installed";
  const std::size_t count = arguments.size();
  const auto owner = count == 6 ? quad::runner::read_owner(arguments[5])
                                : std::optional<quad::runner::HotFolders::Owner>();
  if (count == 0 || (waits && count > 1) || (count > 2 && count != 5 && !owner)) {
    return fail(fmt::format("write `quad-runner {} FOLDER{}`", verb,
                            waits ? "" : " [FROM [TIER JOB HOME [UID:GID]]]"));
  }
  const std::string& folder = arguments[0];
  const std::string from = count > 1 ? arguments[1] : quad::runner::kStartFolder;
  if (count > 2) {
    const auto made =
        quad::runner::make_hot_folders({arguments[2], arguments[3], arguments[4], owner});
    if (!made.ok()) {
      return fail(made.error().message);
    }
  }
  const auto done = waits            ? quad::runner::wait_until_installed(folder, kInstallLimit)
                    : verb == "keep" ? quad::runner::keep(folder, from)
                                     : quad::runner::install(folder, from);
  return done.ok() ? 0 : fail(done.error().message);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--version") {
    std::puts("quad-runner " QUAD_VERSION);
    return 0;
  }
  if (const std::string_view verb = argc >= 2 ? argv[1] : "";
      verb == "install" || verb == "keep" || verb == "installed") {
    return bring_into_pod(verb, {argv + 2, argv + argc});
  }
  if (argc >= 2 && std::string_view(argv[1]) == "rsh") {
    return quad::runner::run_launch_agent({argv + 2, argv + argc});
  }
  if (argc != 2 || argv[1][0] == '-') {
    return fail("give one folder that holds start.json");
  }
  constexpr std::uint64_t kUsualOpenFiles = 1024;  // a shell's may be too few for it and its rank
  quad::allow_open_files(kUsualOpenFiles);
  quad::forbid_core_dumps();
  // As the first process of a container it would otherwise not even be told of a SIGTERM.
  quad::runner::prepare_signals();
  std::error_code missing;
  const std::filesystem::path folder = std::filesystem::canonical(argv[1], missing);
  if (missing) {
    return fail(fmt::format("the folder {} is not there", argv[1]));
  }
  const quad::UniqueFd alive = quad::runner::tell_alive(folder);
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
