#include "runner/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/text.h"
#include "runner/child.h"
#include "runner/process_table.h"

namespace quad::runner {
namespace {

constexpr int kReadyTimeoutMillis = 10'000;

// As large as permitted: a rank that prints much is then woken more seldom.
void enlarge_pipe(int fd) {
  for (const int size : {1 << 20, 256 << 10}) {
    if (::fcntl(fd, F_SETPIPE_SZ, size) >= 0) {
      return;
    }
  }
}

// Keeps a process to some CPUs; what it starts inherits that. 0, or an errno.
int bind_to(pid_t process, const std::vector<int>& cpus) {
  if (cpus.empty()) {
    return 0;
  }
  const auto size = static_cast<std::size_t>(*std::max_element(cpus.begin(), cpus.end())) + 1;
  const std::size_t bytes = CPU_ALLOC_SIZE(size);
  cpu_set_t* set = CPU_ALLOC(size);
  CPU_ZERO_S(bytes, set);
  for (const int cpu : cpus) {
    CPU_SET_S(static_cast<std::size_t>(cpu), bytes, set);
  }
  const int failure = ::sched_setaffinity(process, bytes, set) == 0 ? 0 : errno;
  CPU_FREE(set);
  return failure;
}

unsigned long clone_flags(Isolation isolation) {
  switch (isolation) {
    case Isolation::kNamespace:
      return CLONE_NEWPID | CLONE_NEWNS;
    case Isolation::kUserNamespace:
      return CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS;
    case Isolation::kSubreaper:
      break;
  }
  return 0;
}

}  // namespace

Result<std::unique_ptr<RankProcess>> RankProcess::start(const RankOptions& options) {
  std::unique_ptr<RankProcess> rank(new RankProcess());
  rank->marks_ = options.marks;
  if (options.isolation.has_value()) {
    const int failure = rank->try_start(options, *options.isolation);
    return failure == 0 ? Result<std::unique_ptr<RankProcess>>(std::move(rank))
                        : errno_error("The rank's processes cannot be isolated", failure);
  }
  int failure = 0;
  for (const Isolation isolation :
       {Isolation::kNamespace, Isolation::kUserNamespace, Isolation::kSubreaper}) {
    // A user namespace that maps one user would take from root what root is needed for (apt,
    // chown).
    const bool root = options.init.uid == 0;
    if ((isolation == Isolation::kNamespace && !root) ||
        (isolation == Isolation::kUserNamespace && root)) {
      continue;
    }
    failure = rank->try_start(options, isolation);
    if (failure == 0) {
      return rank;
    }
  }
  return errno_error("The rank's first process cannot be started", failure);
}

int RankProcess::try_start(const RankOptions& options, Isolation isolation) {
  int pipe_ends[2];
  int sockets[2];
  if (::pipe2(pipe_ends, O_CLOEXEC) != 0) {
    return errno;
  }
  output_ = UniqueFd(pipe_ends[0]);
  UniqueFd write_end(pipe_ends[1]);
  enlarge_pipe(output_.get());
  ::fcntl(output_.get(), F_SETFL, O_NONBLOCK);
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) {
    return errno;
  }
  control_ = UniqueFd(sockets[0]);
  UniqueFd far_end(sockets[1]);
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null) {
    return errno;
  }
  if (isolation == Isolation::kSubreaper) {
    // Should the init be killed, its orphans come to the runner, which then sweeps.
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  }
  const long child =
      ::syscall(SYS_clone, clone_flags(isolation) | SIGCHLD, nullptr, nullptr, nullptr, nullptr);
  if (child < 0) {
    return errno;
  }
  if (child == 0) {
    InitOptions init = options.init;
    init.isolation = isolation;
    keep_only_files({far_end.get(), write_end.get(), null.get()});
    for (const int fd : {kInitControl, kInitOutput, kInitNull}) {
      ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
    (void)::chdir(init.home.c_str());
    rank_init(init);
  }
  init_ = static_cast<pid_t>(child);
  far_end.reset();
  write_end.reset();
  if (const int failure = bind_to(init_, options.cpus); failure != 0) {
    notes_.push_back(
        errno_error("The rank cannot be kept to its own CPUs here, so it may use all", failure)
            .message);
  }
  InitReport ready;
  pollfd polled{control_.get(), POLLIN, 0};
  while (::poll(&polled, 1, kReadyTimeoutMillis) < 0 && errno == EINTR) {
  }
  const ssize_t got = ::recv(control_.get(), &ready, sizeof ready, MSG_DONTWAIT);
  if (got == sizeof ready && ready.kind == InitReport::Kind::kReady) {
    isolation_ = isolation;
    if (ready.value != 0) {
      notes_.push_back(
          errno_error("The rank cannot be held to all of its limits here", ready.value).message);
    }
    return 0;
  }
  ::kill(init_, SIGKILL);
  while (::waitpid(init_, nullptr, 0) < 0 && errno == EINTR) {
  }
  init_ = 0;
  return got == sizeof ready && ready.value != 0 ? ready.value : EPERM;
}

RankProcess::~RankProcess() {
  if (init_ != 0 && !ended_) {
    kill();
    control_.reset();
    while (::waitpid(init_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
}

std::vector<InitReport> RankProcess::receive() {
  std::vector<InitReport> reports;
  for (;;) {
    InitReport report;
    const ssize_t got = ::recv(control_.get(), &report, sizeof report, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0 && errno == EAGAIN) {
      return reports;
    }
    if (got <= 0) {
      control_.reset();
      return reports;
    }
    if (got == sizeof report) {
      reports.push_back(report);
    }
  }
}

void RankProcess::command(InitCommand command) {
  if (control_) {
    (void)::send(control_.get(), &command, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
  }
}

Status RankProcess::open_session(std::string_view order) {
  const UniqueFd file(::memfd_create("quad-session", MFD_CLOEXEC));
  if (!file || !control_) {
    return errno_error("No session can be started", file ? ESRCH : errno);
  }
  QUAD_TRY(write_all(file.get(), order));
  return send_with(InitCommand::kSession, {file.get()})
             ? Status()
             : errno_error("No session can be started", errno);
}

Status RankProcess::bring(const BringFiles& files) {
  return control_ && send_with(InitCommand::kBring, {files.output, files.lists, files.blobs})
             ? Status()
             : errno_error("The fetching of the mounts cannot be started", errno);
}

bool RankProcess::send_with(InitCommand command, std::initializer_list<int> files) const {
  auto letter = static_cast<char>(command);
  iovec piece{&letter, sizeof letter};
  alignas(cmsghdr) char control[CMSG_SPACE(3 * sizeof(int))] = {};
  const std::size_t size = files.size() * sizeof(int);
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(size);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(size);
  std::memcpy(CMSG_DATA(header), files.begin(), size);
  return ::sendmsg(control_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
}

void RankProcess::kill() {
  if (init_ == 0 || ended_) {
    return;
  }
  if (isolation_ == Isolation::kSubreaper) {
    command(InitCommand::kKill);  // it takes its descendants with it
  } else {
    ::kill(init_, SIGKILL);
  }
}

void RankProcess::check_ended() {
  if (init_ == 0 || ended_) {
    return;
  }
  const pid_t gone = ::waitpid(init_, nullptr, WNOHANG);
  if (gone != init_ && !(gone < 0 && errno == ECHILD)) {
    return;
  }
  if (isolation_ == Isolation::kSubreaper) {
    // Whatever the init left behind, had it been killed: its orphans carry the rank's marks. So do
    // the runner and its workers where the engine gave them the same, but those are this program.
    for (int round = 0; round < 100; ++round) {
      const std::vector<pid_t> left = processes_with(marks_);
      for (const pid_t process : left) {
        ::kill(process, SIGKILL);
        ::waitpid(process, nullptr, WNOHANG);
      }
      if (left.empty()) {
        break;
      }
      ::poll(nullptr, 0, 5);
    }
  }
  ended_ = true;
}

}  // namespace quad::runner
