// runner/worker.h
//
// Work that blocks (storage, downloads, name look-ups) done in a forked child, so that neither a
// dead NFS server nor a slow download holds up a rank's output, its heartbeats or its end. A worker
// reports by lines of JSON; it dies with the runner, may be asked to come to an end, and may be
// killed at any moment. Owned by the runner's one thread; starting one costs a fork.

#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/result.h"
#include "base/time.h"

namespace quad::runner {

/// The worker's side: sends one message to the runner.
class WorkerOutput {
 public:
  explicit WorkerOutput(int fd) : fd_(fd) {}
  void send(const json::object& message) const;
  /// Waits. False, at once, when the runner has asked the worker to come to an end.
  [[nodiscard]] bool pause(Millis time) const;
  /// Of a worker that speaks in a way of its own.
  [[nodiscard]] int fd() const { return fd_; }

 private:
  int fd_;
};

class Worker {
 public:
  Worker() = default;
  Worker(Worker&& other) noexcept
      : fd_(std::move(other.fd_)),
        pid_(std::exchange(other.pid_, 0)),
        partial_(std::move(other.partial_)) {}
  Worker& operator=(Worker&& other) noexcept {
    kill();
    fd_ = std::move(other.fd_);
    pid_ = std::exchange(other.pid_, 0);
    partial_ = std::move(other.partial_);
    return *this;
  }
  ~Worker() { kill(); }

  /// Forks a child that runs `work` and exits. The child holds no file of the runner's but its own
  /// pipe.
  static Result<Worker> start(const std::function<void(const WorkerOutput&)>& work);

  /// One that another process has started, and that others see to the end of; `fd` is this end of
  /// its socket.
  static Worker of(UniqueFd fd);
  /// The two ends of a worker's socket, this one first.
  static Result<std::pair<UniqueFd, UniqueFd>> make_sockets();

  /// Gives it to another process to speak to. It is to end when nobody speaks to it any more, and
  /// ends with the runner.
  UniqueFd give_away();

  [[nodiscard]] bool running() const { return fd_.get() >= 0; }
  /// To be polled for reading; -1 when it has ended.
  [[nodiscard]] int fd() const { return fd_.get(); }
  /// The messages that have come; call it when fd() is readable. When the worker has ended,
  /// running() becomes false.
  std::vector<json::object> receive();
  /// Asks it to come to an end; what it still has to say is received as before.
  void finish();
  /// Ends it and whatever it started, without waiting for it: the child is reaped by the runner's
  /// loop.
  void kill();

 private:
  UniqueFd fd_;
  pid_t pid_ = 0;
  std::string partial_;
};

}  // namespace quad::runner
