#include "runner/child.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace quad::runner {

void keep_only_files(std::initializer_list<int> files) {
  constexpr int kHigh =
      100;  // above what a runner has open, so that no move overwrites what is moved later
  int count = 0;
  for (const int file : files) {
    ::dup2(file, kHigh + count);
    ++count;
  }
  for (int i = 0; i < count; ++i) {
    ::dup2(kHigh + i, 3 + i);
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
