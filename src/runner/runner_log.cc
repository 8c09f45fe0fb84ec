#include "runner/runner_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <limits.h>
#include <poll.h>
#include <unistd.h>

#include <string>

#include "base/file.h"

namespace quad::runner {

namespace {

// In a pod it is what `kubectl logs` shows. A pipe that nobody empties is not waited for either.
void write_to_stderr(std::string_view line) {
  pollfd error_output{STDERR_FILENO, POLLOUT, 0};
  if (line.size() <= PIPE_BUF && ::poll(&error_output, 1, 0) == 1 &&
      (error_output.revents & POLLOUT) != 0) {
    (void)write_all(STDERR_FILENO, line);
  }
}

}  // namespace

void RunnerLog::write(std::string_view text) const {
  const std::string line = fmt::format("{} {}\n", format_rfc3339(clock_.now().wall), text);
  write_to_stderr(line);
  // The job may have put a pipe in its place: it is not waited for.
  const UniqueFd fd(::open(
      path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644));
  if (fd) {
    (void)write_all(fd.get(), line);
  }
}

}  // namespace quad::runner
