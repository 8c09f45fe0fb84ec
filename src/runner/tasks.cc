#include "runner/tasks.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/remove_tree.h"
#include "base/text.h"
#include "runner/child.h"
#include "runner/confine.h"
#include "runner/environment.h"
#include "runner/own_file.h"
#include "runner/process_table.h"
#include "runner/protocol.h"
#include "runner/result_file.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

/// How often it is looked whether all of a task is dead whose runner did not see to that, with 5 ms
/// between.
constexpr int kSweeps = 100;

std::vector<std::string> marks_of(const RankKey& key, const fs::path& folder) {
  return {fmt::format("{}={}", kRankKeyVariable, to_string(key)),
          fmt::format("{}={}/", kRankFolderVariable, folder.string())};
}

std::string describe_end(int status) {
  if (WIFEXITED(status)) {
    return fmt::format("its runner exited with code {}", WEXITSTATUS(status));
  }
  return fmt::format("its runner was killed by {}", signal_name(WTERMSIG(status)));
}

// What was below its runner may outlive that by a moment.
void sweep(const std::vector<std::string>& marks) {
  for (int round = 0; round < kSweeps; ++round) {
    const std::vector<pid_t> left = processes_with(marks);
    if (left.empty()) {
      return;
    }
    for (const pid_t process : left) {
      ::kill(process, SIGKILL);
    }
    ::poll(nullptr, 0, 5);
  }
}

}  // namespace

Result<json::object> task_start(const Start& holder, const fs::path& home,
                                const json::object& message) {
  json::object start;
  start["server"] = holder.server;
  start["ca"] = holder.ca;
  start["token"] = get_string(message, "token");
  start["job"] = get_int(message, "job");
  start["epoch"] = get_int(message, "epoch");
  start["rank"] = get_int(message, "rank", -1);
  start["node"] = get_string(message, "node");
  start["address"] = holder.address;
  start["holder"] = to_string(holder.key);
  json::array gpus;
  if (const json::array* indices = get_array(message, "gpus")) {
    for (const json::value& index : *indices) {
      // As they count on the cluster's node. Where the engine has hidden all others, so do they
      // here.
      const auto at = index.is_int64() ? index.get_int64() : -1;
      if (at < 0 || (!holder.gpus.empty() && at >= static_cast<std::int64_t>(holder.gpus.size()))) {
        return error(
            ErrorCode::kInvalid,
            fmt::format("\"gpus\" names one that this node does not have: {}", to_text(index)));
      }
      gpus.push_back(holder.gpu_env.empty() ? at : holder.gpus[static_cast<std::size_t>(at)]);
    }
  }
  start["gpus"] = std::move(gpus);
  start["gpu_env"] = holder.gpu_env.empty() ? "CUDA_VISIBLE_DEVICES" : holder.gpu_env;
  start["cpu_milli"] = holder.cpu_milli;
  start["cpus"] = json::array(holder.cpus.begin(), holder.cpus.end());
  start["memory_bytes"] = holder.memory_bytes;
  start["hot"] = holder.hot;
  start["home"] = home.string();
  start["limits"] = json::object{{"spool_bytes", holder.spool_bytes},
                                 {"namespaces", holder.namespaces},
                                 {"processes", holder.processes}};
  if (const auto read = parse_start(to_text(start)); !read.ok()) {
    return read.error();
  }
  return start;
}

Tasks::Tasks(const Start& start, fs::path folder, fs::path home, const ControlGroups& groups,
             Uplink& uplink, const RunnerLog& log)
    : start_(start),
      folder_(std::move(folder)),
      home_(std::move(home)),
      groups_(groups),
      uplink_(uplink),
      log_(log) {}

Tasks::~Tasks() {
  kill_all("");
}

void Tasks::start(const json::object& message) {
  const RankKey key = rank_key_of(message);
  if (tasks_.contains(key)) {
    return;
  }
  Task& task = tasks_[key];
  task.folder = folder_ / "tasks" / to_string(key);
  auto start = task_start(start_, home_, message);
  if (start.ok()) {
    // They share a HOME, so one must know what the others have brought there.
    start.value()["brought"] = (folder_ / "brought").string();
  }
  const Status spawned = start.ok() ? spawn(key, task, *start) : Status(start.error());
  if (!spawned.ok()) {
    RankResult result;
    result.how = "never_ran";
    result.detail = spawned.error().message;
    task.result = result;
    tell(key, task.result, "");
  }
}

Status Tasks::spawn(const RankKey& key, Task& task, const json::object& start) {
  QUAD_TRY(make_folders(task.folder, 0700));
  {
    QUAD_ASSIGN(const UniqueFd file, create_own_file(task.folder / "start.json", 0600));
    QUAD_TRY(write_all(file.get(), to_text(start) + "\n"));
  }
  std::vector<std::string> entries = marks_of(key, task.folder);
  entries.push_back(fmt::format("{}={}", kHolderKeyVariable, to_string(start_.key)));
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!std::string_view(*entry).starts_with("QUAD_")) {
      entries.emplace_back(*entry);
    }
  }
  std::vector<char*> environment;
  environment.reserve(entries.size() + 1);
  for (std::string& entry : entries) {
    environment.push_back(entry.data());
  }
  environment.push_back(nullptr);
  std::string program = "quad-runner";
  std::string folder = task.folder.string();
  char* arguments[] = {program.data(), folder.data(), nullptr};
  // Should its runner be killed, what it leaves behind comes to this one, to be reaped.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) {
    return errno_error("The task's runner cannot be started", errno);
  }
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) {
      ::_exit(127);
    }
    (void)join_groups(groups_.folders());
    reset_signals();
    ::setsid();
    for (const int fd : {0, 1, 2}) {
      ::dup2(null.get(), fd);
    }
    keep_only_files({});
    ::execve("/proc/self/exe", arguments, environment.data());
    ::_exit(127);
  }
  task.pid = child;
  return {};
}

void Tasks::kill(const RankKey& key) {
  const auto it = tasks_.find(key);
  if (it == tasks_.end()) {
    tell(key, std::nullopt, "its runner is not there");
  } else if (it->second.pid == 0) {
    tell(key, it->second.result, it->second.detail);
  } else {
    ::kill(it->second.pid, SIGKILL);
  }
}

void Tasks::forget(const RankKey& key) {
  const auto it = tasks_.find(key);
  if (it == tasks_.end()) {
    return;
  }
  it->second.forgotten = true;
  if (it->second.pid == 0) {
    if (const Status removed = remove_tree(it->second.folder); !removed.ok()) {
      log_.write(removed.error().message);
    }
    tasks_.erase(it);
  }
}

void Tasks::terminate_all() {
  for (const auto& [key, task] : tasks_) {
    if (task.pid != 0) {
      ::kill(task.pid, SIGTERM);
    }
  }
}

void Tasks::kill_all(const std::string& why) {
  killed_for_ = why;
  for (const auto& [key, task] : tasks_) {
    if (task.pid != 0) {
      ::kill(task.pid, SIGKILL);
    }
  }
}

void Tasks::check() {
  std::vector<RankKey> over;
  for (auto& [key, task] : tasks_) {
    if (task.pid == 0) {
      continue;
    }
    int status = 0;
    const pid_t gone = ::waitpid(task.pid, &status, WNOHANG);
    if (gone == task.pid || (gone < 0 && errno == ECHILD)) {
      ended(key, task, gone == task.pid ? describe_end(status) : "its runner is gone");
      if (task.forgotten) {
        over.push_back(key);
      }
    }
  }
  for (const RankKey& key : over) {
    forget(key);
  }
}

void Tasks::ended(const RankKey& key, Task& task, std::string detail) {
  task.pid = 0;
  task.detail = std::move(detail);
  task.result = read_result(task.folder);
  if (!task.result) {
    if (!killed_for_.empty()) {
      task.detail = fmt::format("its cluster's node ended: {}", killed_for_);
    }
    sweep(marks_of(key, task.folder));
  }
  if (!task.forgotten) {
    tell(key, task.result, task.detail);
  }
  log_.write(fmt::format("Task {} has ended: {}", to_string(key), task.detail));
}

void Tasks::tell(const RankKey& key, const std::optional<RankResult>& result,
                 const std::string& detail) {
  uplink_.post({{"type", "task_ended"},
                {"job", key.job.value()},
                {"epoch", key.epoch.value()},
                {"rank", key.rank.value()},
                {"result", result ? json::value(to_json(*result)) : json::value(nullptr)},
                {"detail", detail}});
}

bool Tasks::all_ended() const {
  return std::all_of(tasks_.begin(), tasks_.end(),
                     [](const auto& entry) { return entry.second.pid == 0; });
}

json::array Tasks::list() const {
  json::array all;
  for (const auto& [key, task] : tasks_) {
    all.push_back(json::object{
        {"job", key.job.value()},
        {"epoch", key.epoch.value()},
        {"rank", key.rank.value()},
        {"alive", task.pid != 0},
        {"result", task.result ? json::value(to_json(*task.result)) : json::value(nullptr)}});
  }
  return all;
}

}  // namespace quad::runner
