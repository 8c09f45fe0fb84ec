// runner/install.h
//
// `quad-runner install FOLDER [FROM]`: what the first container of a pod does, so that the second,
// of any image and under any user, finds a runner and its start.json: FOLDER/quad-runner, and in
// FOLDER/rank the files of FROM. FOLDER is the pod's own and seen by nobody else, so all of it may
// be used by everybody. Done twice it is done once. Blocks for some megabytes.

#pragma once

#include <filesystem>

#include "base/result.h"

namespace quad::runner {

/// Where a pod's start files are mounted.
inline constexpr const char* kStartFolder = "/quad-start";

/// `from` holds start.json, and ca.pem if the server's certificate needs one.
Status install(const std::filesystem::path& folder, const std::filesystem::path& from);

}  // namespace quad::runner
