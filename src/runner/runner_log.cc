#include "runner/runner_log.h"

#include <fcntl.h>
#include <fmt/format.h>

#include "base/file.h"

namespace quad::runner {

void RunnerLog::write(std::string_view text) const {
  // The job may have put a pipe in its place: it is not waited for.
  const UniqueFd fd(::open(
      path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644));
  if (fd) {
    (void)write_all(fd.get(), fmt::format("{} {}\n", format_rfc3339(clock_.now().wall), text));
  }
}

}  // namespace quad::runner
