// runner/install.h
//
// How a runner gets into a pod, so that the rank's container, of any image and under any user,
// finds it and its start.json: FOLDER/quad-runner, and in FOLDER/rank the files of FROM. FOLDER is
// the pod's own and seen by nobody else, so all of it may be used by everybody.
//
//   `quad-runner install FOLDER [FROM]`  brings it: an init container's whole work. Done twice it
//                                        is done once. Blocks for some megabytes.
//   `quad-runner keep FOLDER [FROM]`     brings it and stays for as long as the rank lives: a
//                                        container beside the rank's, which need not wait until the
//                                        kubelet notes that an init container ended (it looks once
//                                        a second), and which leaves the pod Ready.
// With [TIER JOB HOME [UID:GID]] behind it, each makes the pod's folders in the hot tier first
// (runner/hot_folders.h).
//
//   `quad-runner installed FOLDER`       returns once it is brought: the hook after which the
//                                        kubelet starts the next container.
//
// A rank tells that it lives by a FIFO, FOLDER/rank/alive, which it holds open for writing: however
// it dies, the kernel closes it.

#pragma once

#include <filesystem>

#include "base/file.h"
#include "base/result.h"
#include "base/time.h"

namespace quad::runner {

/// Where a pod's start files are mounted.
inline constexpr const char* kStartFolder = "/quad-start";

/// `from` holds start.json, and ca.pem if the server's certificate needs one.
Status install(const std::filesystem::path& folder, const std::filesystem::path& from);

/// Installs, and returns when a rank has begun and ended, or not at all. SIGTERM and SIGINT end
/// the program, with 0, as they do not by themselves when it is the first of its container.
Status keep(const std::filesystem::path& folder, const std::filesystem::path& from);

/// kTimeout if it has not been brought within `limit`. Looks every few milliseconds.
Status wait_until_installed(const std::filesystem::path& folder, Millis limit);

/// To be held for as long as the rank lives; nothing where nobody keeps this rank's pod.
UniqueFd tell_alive(const std::filesystem::path& rank_folder);

}  // namespace quad::runner
