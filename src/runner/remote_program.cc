#include "runner/remote_program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "runner/child.h"

namespace quad::runner {
namespace {

struct Terminal {
  UniqueFd master;
  UniqueFd slave;
};

Result<Terminal> make_terminal(int rows, int columns) {
  Terminal terminal;
  terminal.master = UniqueFd(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!terminal.master || ::grantpt(terminal.master.get()) != 0 ||
      ::unlockpt(terminal.master.get()) != 0) {
    return errno_error("No terminal can be had here", errno);
  }
  char name[128];
  if (::ptsname_r(terminal.master.get(), name, sizeof name) != 0) {
    return errno_error("No terminal can be had here", errno);
  }
  terminal.slave = UniqueFd(::open(name, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!terminal.slave) {
    return errno_error(fmt::format("The terminal {} cannot be opened", name), errno);
  }
  resize_terminal(terminal.master.get(), rows, columns);
  return terminal;
}

[[noreturn]] void run_child(const ProgramOptions& options, int told) {
  // Files: 0, 1 and 2 are in place; `told` is where a failure goes.
  reset_signals();
  for (const std::string& folder : options.folders) {
    if (::chdir(folder.c_str()) == 0) {
      break;
    }
  }
  if (options.work) {
    ::close(told);
    ::_exit(options.work());
  }
  std::vector<char*> arguments;
  for (const std::string& argument : options.arguments) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  std::vector<char*> environment;
  for (const std::string& entry : options.environment) {
    environment.push_back(const_cast<char*>(entry.c_str()));
  }
  environment.push_back(nullptr);
  environ = environment.data();
  ::execvp(arguments[0], arguments.data());
  const int failure = errno;
  (void)!::write(told, &failure, sizeof failure);
  ::_exit(127);
}

Error cannot_run(const std::string& name, int failure) {
  if (failure == ENOENT) {
    return error(ErrorCode::kNotFound,
                 name.find('/') == std::string::npos
                     ? fmt::format("there is no program '{}' in the rank's PATH", name)
                     : fmt::format("there is no program '{}' on the rank", name));
  }
  if (failure == E2BIG) {
    return error(ErrorCode::kDenied,
                 fmt::format("'{}' cannot be started on the rank: the task's variables, or the "
                             "arguments, are longer than the kernel takes (128 KiB for one)",
                             name));
  }
  return error(ErrorCode::kDenied,
               errno_error(fmt::format("'{}' cannot be run on the rank", name), failure).message);
}

}  // namespace

void resize_terminal(int master, int rows, int columns) {
  winsize size{};
  size.ws_row = static_cast<unsigned short>(std::clamp(rows, 1, 10'000));
  size.ws_col = static_cast<unsigned short>(std::clamp(columns, 1, 10'000));
  ::ioctl(master, TIOCSWINSZ, &size);
}

Result<Program> start_program(const ProgramOptions& options) {
  Program program;
  UniqueFd in;
  UniqueFd out;
  UniqueFd errors;
  if (options.terminal) {
    QUAD_ASSIGN(Terminal terminal, make_terminal(options.rows, options.columns));
    program.in = std::move(terminal.master);
    in = std::move(terminal.slave);
    out = UniqueFd(::fcntl(in.get(), F_DUPFD_CLOEXEC, 3));
    errors = UniqueFd(::fcntl(in.get(), F_DUPFD_CLOEXEC, 3));
  } else {
    QUAD_ASSIGN(Pipe first, make_pipe());
    QUAD_ASSIGN(Pipe second, make_pipe());
    QUAD_ASSIGN(Pipe third, make_pipe());
    program.in = std::move(first.write);
    program.out = std::move(second.read);
    program.errors = std::move(third.read);
    in = std::move(first.read);
    out = std::move(second.write);
    errors = std::move(third.write);
  }
  QUAD_ASSIGN(Pipe told, make_pipe());
  const pid_t child = ::fork();
  if (child < 0) {
    return errno_error("No process can be started on the rank", errno);
  }
  if (child == 0) {
    ::setsid();
    if (options.terminal) {
      ::ioctl(in.get(), TIOCSCTTY, 0);
    }
    ::dup2(in.get(), 0);
    ::dup2(out.get(), 1);
    ::dup2(errors.get(), 2);
    keep_only_files({told.write.get()});
    ::fcntl(3, F_SETFD, FD_CLOEXEC);
    run_child(options, 3);
  }
  told.write.reset();
  int failure = 0;
  ssize_t got = 0;
  while ((got = ::read(told.read.get(), &failure, sizeof failure)) < 0 && errno == EINTR) {
  }
  if (got == sizeof failure) {
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
    return cannot_run(options.arguments.front(), failure);
  }
  program.pid = child;
  return program;
}

}  // namespace quad::runner
