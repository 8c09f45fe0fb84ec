#include "runner/result_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>

#include "base/file.h"
#include "base/json.h"
#include "runner/own_file.h"

namespace quad::runner {

namespace fs = std::filesystem;

Status write_result(const std::filesystem::path& folder, const RankResult& result) {
  const fs::path temporary = folder / "result.json.tmp";
  const auto failed = [&](Error why) {
    ::unlink(temporary.c_str());
    return why;
  };
  QUAD_ASSIGN(const UniqueFd fd, create_own_file(temporary, 0644));
  if (auto written = write_all(fd.get(), to_text(to_json(result)) + "\n"); !written.ok()) {
    return failed(
        error(written.error().code, "Cannot write result.json: " + written.error().message));
  }
  if (::rename(temporary.c_str(), (folder / "result.json").c_str()) != 0) {
    return failed(errno_error("Cannot write result.json", errno));
  }
  return {};
}

Status sync_result(const std::filesystem::path& folder) {
  const UniqueFd fd(
      ::open((folder / "result.json").c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) {
    return errno_error("Cannot sync result.json", errno);
  }
  return sync_folder(folder);  // which has the name only since the rename
}

Status write_termination_message(const std::filesystem::path& file, const RankResult& result) {
  // User code may have put a pipe in its place, which is not waited for.
  const UniqueFd fd(::open(file.c_str(), O_WRONLY | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat facts {};
  if (!fd || ::fstat(fd.get(), &facts) != 0) {
    return errno_error(fmt::format("Cannot open the termination message {}", file.string()), errno);
  }
  if (!S_ISREG(facts.st_mode)) {
    return error(ErrorCode::kInvalid,
                 fmt::format("The termination message {} is no regular file", file.string()));
  }
  return write_all(fd.get(), termination_message(result));
}

std::optional<RankResult> read_result(const std::filesystem::path& folder) {
  auto text = read_regular_file(folder / "result.json", 1U << 20U);
  if (!text.ok()) {
    return std::nullopt;
  }
  auto object = parse_json_object(text.value());
  return object.ok() ? std::optional(result_from(object.value())) : std::nullopt;
}

}  // namespace quad::runner
