// runner/tasks.h
//
// What a holder's runner has running for others: the tasks on its node of a cluster. Each is a
// quad-runner of its own, a child of this one, in FOLDER/tasks/KEY, with its own start.json, its
// own token and connection; it shares this rank's HOME, and its CPUs, memory limit and GPUs or a
// part of them. Here it is only started, killed and seen to its end, as an engine does.
//
// Owned by the runner's one thread. Starting one blocks for some hundred microseconds; seeing to
// the end of one that did not leave in order, for as long as its processes take to die (half a
// second at most).
//
// Always holds: tasks die with this process; a task whose end was told has no process left; a start
// that is given twice is one.

#pragma once

#include <sys/types.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "base/ids.h"
#include "base/json.h"
#include "base/result.h"
#include "base/time.h"
#include "runner/cgroup.h"
#include "runner/rank_result.h"
#include "runner/runner_log.h"
#include "runner/start.h"
#include "runner/uplink.h"

namespace quad::runner {

/// The start.json of a task, from this rank's and the message `start_task`. Pure. kInvalid with the
/// member's name.
Result<json::object> task_start(const Start& holder, const std::filesystem::path& home,
                                const json::object& message);

class Tasks {
 public:
  /// Tasks are started in `groups`, and so held to the rank's limits, all together.
  Tasks(const Start& start, std::filesystem::path folder, std::filesystem::path home,
        const ControlGroups& groups, Uplink& uplink, const RunnerLog& log);
  Tasks(const Tasks&) = delete;
  Tasks& operator=(const Tasks&) = delete;
  ~Tasks();  ///< kills what is left

  // What the server says.
  void start(const json::object& message);
  /// Its end is told, also if it is not there.
  void kill(const RankKey& key);
  /// Its end is durable: what is kept of it may go.
  void forget(const RankKey& key);

  void terminate_all();  ///< SIGTERM: each stops its rank with the order's grace
  /// `why` is told as the end of those that leave no result.
  void kill_all(const std::string& why);
  /// To be called after SIGCHLD, before anybody else reaps: tells of those that have ended.
  void check();

  [[nodiscard]] bool all_ended() const;
  /// For hello: what there is, alive or ended.
  [[nodiscard]] json::array list() const;

 private:
  struct Task {
    std::filesystem::path folder;
    pid_t pid = 0;  ///< of its runner; 0: it has ended
    bool forgotten = false;
    std::optional<RankResult> result;
    std::string detail;
  };

  Status spawn(const RankKey& key, Task& task, const json::object& start);
  void ended(const RankKey& key, Task& task, std::string detail);
  void tell(const RankKey& key, const std::optional<RankResult>& result, const std::string& detail);

  const Start& start_;
  const std::filesystem::path folder_;
  const std::filesystem::path home_;
  const ControlGroups& groups_;
  Uplink& uplink_;
  const RunnerLog& log_;
  std::map<RankKey, Task> tasks_;
  std::string killed_for_;  ///< why all were killed
};

}  // namespace quad::runner
