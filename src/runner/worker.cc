#include "runner/worker.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <utility>

#include "runner/child.h"

namespace quad::runner {
namespace {

constexpr std::size_t kLongestMessage = 1U << 20U;

}  // namespace

void WorkerOutput::send(const json::object& message) const {
  // A runner that is gone makes the write fail; the worker is killed then anyway.
  (void)write_all(fd_, to_text(message) + "\n");
}

bool WorkerOutput::pause(Millis time) const {
  // The runner never writes: all that can come is the end.
  pollfd polled{fd_, POLLIN, 0};
  const auto millis = std::clamp<std::int64_t>(time.count(), 0, 3'600'000);
  return ::poll(&polled, 1, static_cast<int>(millis)) == 0;
}

Result<std::pair<UniqueFd, UniqueFd>> Worker::make_sockets() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return errno_error("Cannot make a pair of sockets", errno);
  }
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
  return std::pair(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

Worker Worker::of(UniqueFd fd) {
  Worker worker;
  worker.fd_ = std::move(fd);
  return worker;
}

Result<Worker> Worker::start(const std::function<void(const WorkerOutput&)>& work) {
  QUAD_ASSIGN(auto sockets, make_sockets());
  Worker worker = of(std::move(sockets.first));
  UniqueFd write_end = std::move(sockets.second);
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) {
    return errno_error("Cannot start a process", errno);
  }
  if (child == 0) {
    // Its own group, so that what it starts (git) ends with it.
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) {
      ::_exit(1);
    }
    reset_signals();
    keep_only_files({write_end.get()});
    work(WorkerOutput(3));
    ::_exit(0);
  }
  ::setpgid(child, child);
  worker.pid_ = child;
  return worker;
}

UniqueFd Worker::give_away() {
  ::fcntl(fd_.get(), F_SETFL, 0);
  pid_ = 0;
  return std::move(fd_);
}

std::vector<json::object> Worker::receive() {
  std::vector<json::object> messages;
  char buffer[16384];
  for (;;) {
    const ssize_t got = ::read(fd_.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0 && errno == EAGAIN) {
      break;
    }
    if (got <= 0) {
      fd_.reset();
      pid_ = 0;
      break;
    }
    partial_.append(buffer, static_cast<std::size_t>(got));
  }
  std::size_t begin = 0;
  for (std::size_t end = 0; (end = partial_.find('\n', begin)) != std::string::npos;
       begin = end + 1) {
    auto message = parse_json_object(std::string_view(partial_).substr(begin, end - begin));
    if (message.ok()) {
      messages.push_back(std::move(message).value());
    }
  }
  partial_.erase(0, begin);
  if (partial_.size() > kLongestMessage) {
    partial_.clear();
  }
  return messages;
}

void Worker::finish() {
  if (fd_) {
    ::shutdown(fd_.get(), SHUT_WR);
  }
}

void Worker::kill() {
  if (pid_ > 0) {
    ::kill(-pid_, SIGKILL);
    ::kill(pid_, SIGKILL);
    pid_ = 0;
  }
  fd_.reset();
}

}  // namespace quad::runner
