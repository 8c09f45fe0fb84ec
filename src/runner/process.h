// runner/process.h
//
// The process tree of a rank, seen from the runner: its init (rank_init.h), the pipe that carries
// its output, and the CPUs it runs on. Owned by the runner's one thread.
// Starting one blocks for a few hundred microseconds.
//
// Always holds: when the tree has ended (ended() is true) no process of it is alive, and its end
// does not need the runner: a runner that is killed takes the tree with it.

#pragma once

#include <sys/types.h>

#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "runner/rank_init.h"

namespace quad::runner {

struct RankOptions {
  InitOptions init;  ///< isolation is chosen by start()
  std::vector<std::string>
      marks;              ///< entries of its processes' environment that no other rank's have
  std::vector<int> cpus;  ///< that it may run on; empty: all
  std::optional<Isolation> isolation;  ///< only this one; else the best that is permitted
};

class RankProcess {
 public:
  /// Starts the init in the best isolation that is permitted.
  static Result<std::unique_ptr<RankProcess>> start(const RankOptions& options);
  RankProcess(const RankProcess&) = delete;
  RankProcess& operator=(const RankProcess&) = delete;
  ~RankProcess();

  /// The read end of the output, non-blocking. It ends when every process of the tree has.
  [[nodiscard]] int output_fd() const { return output_.get(); }
  void close_output() { output_.reset(); }
  /// To be polled for reports; -1 once the init has closed it.
  [[nodiscard]] int control_fd() const { return control_.get(); }
  /// The reports that have come.
  std::vector<InitReport> receive();

  void command(InitCommand command);
  /// Has a session started whose process reads `order` (remote_session.h).
  Status open_session(std::string_view order);
  /// Has InitOptions::bring done with these, in a process of the rank's.
  Status bring(const BringFiles& files);
  /// Kills the whole tree at once. Its end follows.
  void kill();
  /// To be called after SIGCHLD, and once more after kill().
  void check_ended();
  [[nodiscard]] bool ended() const { return ended_; }

  [[nodiscard]] pid_t init_pid() const { return init_; }
  [[nodiscard]] Isolation isolation() const { return isolation_; }
  /// What could not be done, for the job's story; empty sentences left out.
  [[nodiscard]] const std::vector<std::string>& notes() const { return notes_; }

 private:
  RankProcess() = default;
  [[nodiscard]] bool send_with(InitCommand command, std::initializer_list<int> files) const;
  /// 0, or the errno for which this isolation is not possible.
  int try_start(const RankOptions& options, Isolation isolation);

  Isolation isolation_ = Isolation::kNamespace;
  std::vector<std::string> marks_;
  pid_t init_ = 0;
  bool ended_ = false;
  UniqueFd control_;
  UniqueFd output_;
  std::vector<std::string> notes_;
};

}  // namespace quad::runner
