#include "runner/child.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>

namespace quad::runner {

void keep_only_files(std::initializer_list<int> files) {
  constexpr std::size_t kMost = 8;
  std::array<int, kMost> aside{};
  const int count = static_cast<int>(std::min(files.size(), kMost));
  // First out of the way, so that no move overwrites what is moved later.
  std::transform(files.begin(), files.begin() + count, aside.begin(),
                 [&](int file) { return ::fcntl(file, F_DUPFD, 3 + count); });
  for (int i = 0; i < count; ++i) {
    ::dup2(aside[static_cast<std::size_t>(i)], 3 + i);
  }
  const auto first = static_cast<unsigned>(3 + count);
  if (::syscall(SYS_close_range, first, ~0U, 0U) == 0) {
    return;
  }
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const int last = limit.rlim_cur < 65536 ? static_cast<int>(limit.rlim_cur) : 65536;
  for (int fd = static_cast<int>(first); fd < last; ++fd) {
    ::close(fd);
  }
}

void reset_signals() {
  for (const int signal : {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGPIPE}) {
    ::signal(signal, SIG_DFL);
  }
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

}  // namespace quad::runner
