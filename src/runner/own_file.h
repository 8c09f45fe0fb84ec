// runner/own_file.h
//
// Files of the runner's in the rank's folder, where the job, which has the same user, may put what
// it likes: a pipe that nobody reads or a link must neither hold the runner up nor lead it
// elsewhere. Reading them: read_regular_file() of base/file.h.

#pragma once

#include <filesystem>

#include "base/file.h"
#include "base/result.h"

namespace quad::runner {

/// A new file for reading and writing in the place of whatever is there, a folder excepted.
Result<UniqueFd> create_own_file(const std::filesystem::path& path, unsigned mode);

}  // namespace quad::runner
