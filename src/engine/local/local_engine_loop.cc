// The engine's own thread: it carries out orders, sees runners end, and keeps pretend nodes in the
// state they are in.

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/text.h"
#include "engine/local/control_group.h"
#include "engine/local/local_engine.h"
#include "engine/local/rank_folder.h"
#include "engine/local/spawn.h"

namespace quad::engine {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr auto kBeat = 1s;
/// A killed process is gone in a moment, but not on a machine that is busy: each look costs a scan
/// of /proc.
constexpr auto kShortestSweepPause = 2ms;
constexpr auto kLongestSweepPause = 200ms;
/// A runner that left in order has killed its rank itself, and nobody waits to hear of it: many are
/// looked after at once.
constexpr auto kOrderlySweepPause = 100ms;
/// How long a runner may take to leave after its end is durable.
constexpr auto kLeaveTime = 10s;
/// How long what a runner left behind may take to die, before it is reported as ended all the same.
constexpr auto kSweepTime = 30s;
/// Until what was not possible is tried again.
constexpr auto kRetryPause = 100ms;

// How a process ended, if it was a child of this one: of others the kernel does not say.
std::string describe_end(const siginfo_t& info) {
  if (info.si_pid == 0) {
    return "its runner is gone";
  }
  if (info.si_code == CLD_EXITED) {
    return fmt::format("its runner exited with code {}", info.si_status);
  }
  return fmt::format("its runner was killed by {}", signal_name(info.si_status));
}

}  // namespace

Family LocalEngine::family_of(const Runner& runner) {
  Family family{runner.known, to_string(runner.key), runner.folder.string()};
  family.roots.push_back(runner.process);
  return family;
}

std::vector<Family> LocalEngine::families_on(const NodeId& id) const {
  std::vector<Family> families;
  for (const auto& [key, runner] : runners_) {
    if (runner->node == id) {
      families.push_back(family_of(*runner));
    }
  }
  return families;
}

std::vector<Process> LocalEngine::others_than(const std::vector<Runner*>& runners) const {
  std::vector<Process> others;
  for (const auto& [key, runner] : runners_) {
    if (std::find(runners.begin(), runners.end(), runner.get()) == runners.end()) {
      others.push_back(runner->process);
    }
  }
  return others;
}

bool LocalEngine::frozen(const NodeId& id) const {
  const auto node = nodes_.find(id);
  return node != nodes_.end() && node->second.power == Power::kFrozen;
}

void LocalEngine::watch(Runner runner) {
  runner.number = ++last_number_;
  runner.watched = watch_end(runner);
  auto kept = std::make_unique<Runner>(std::move(runner));
  by_number_.emplace(kept->number, kept.get());
  const RankKey key = kept->key;
  runners_.insert_or_assign(key, std::move(kept));
}

bool LocalEngine::watch_end(Runner& runner) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = runner.number;
  return ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, runner.handle.get(), &event) == 0;
}

// Says once when looking at processes begins to fail, and once when it is possible again.
bool LocalEngine::can_see(const Status& looked) {
  if (!looked.ok()) {
    retry_at_ = std::chrono::steady_clock::now() + kRetryPause;
  }
  if (blind_ == looked.ok()) {
    blind_ = !looked.ok();
    if (blind_) {
      spdlog::warn("the processes of ranks cannot be looked at, so none is taken for ended: {}",
                   looked.error().message);
    } else {
      spdlog::info("the processes of ranks can be looked at again");
    }
  }
  return looked.ok();
}

void LocalEngine::run() {
  Instant next_beat = std::chrono::steady_clock::now();
  std::array<epoll_event, 64> events{};
  while (!stopping_) {
    const Instant wake_at =
        std::min({next_beat, next_sweep_, std::exchange(retry_at_, Instant::max())});
    const auto wait =
        std::chrono::ceil<std::chrono::milliseconds>(wake_at - std::chrono::steady_clock::now());
    const int count =
        ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                     static_cast<int>(std::clamp<std::int64_t>(wait.count(), 0, 1000)));
    for (int i = 0; i < count; ++i) {
      const std::uint64_t number = events[static_cast<std::size_t>(i)].data.u64;
      if (const auto it = by_number_.find(number); it != by_number_.end()) {
        runner_ended(*it->second);
      } else if (number == 0) {
        std::uint64_t times = 0;
        (void)!::read(wake_.get(), &times, sizeof times);
      }
    }
    std::deque<Task> tasks;
    {
      const std::lock_guard lock(mutex_);
      tasks.swap(tasks_);
    }
    for (Task& task : tasks) {
      std::visit([this](auto& one) { carry_out(one); }, task);
    }
    const Instant now = std::chrono::steady_clock::now();
    if (now >= next_beat) {
      beat(now);
      next_beat = now + kBeat;
    }
    kill_marked();
    sweep(now);
    for (auto& [id, node] : nodes_) {
      settle_power(id, node);
    }
  }
}

void LocalEngine::carry_out(StartOrder& order) {
  if (runners_.contains(order.key)) {
    return;
  }
  if (const auto ended = ended_.find(order.key); ended != ended_.end()) {
    sink_(RunnerEnded{order.key, ended->second.result,
                      "its runner had been started before, and has ended"});
    return;
  }
  const auto it = nodes_.find(order.holding.node);
  if (it == nodes_.end()) {
    sink_(StartFailed{order.key,
                      fmt::format("there is no node '{}' here", order.holding.node.value())});
    return;
  }
  Node& node = it->second;
  if (node.power == Power::kFailed) {
    sink_(StartFailed{order.key, fmt::format("{} is powered off", order.holding.node.value())});
    return;
  }
  if (node.power == Power::kFrozen) {
    const bool known = std::any_of(node.waiting.begin(), node.waiting.end(),
                                   [&](const StartOrder& other) { return other.key == order.key; });
    if (!known) {
      node.waiting.push_back(std::move(order));
    }
    return;
  }
  StartFile file;
  file.server = options_.server_url;
  file.ca = options_.server_ca;
  file.token = order.token;
  file.key = order.key;
  file.node = order.holding.node;
  file.address = node.what.spec.address;
  for (const std::int32_t index : order.holding.gpu_indices) {
    const auto at = static_cast<std::size_t>(index);
    file.gpus.push_back(at < node.what.gpu_numbers.size() ? node.what.gpu_numbers[at] : index);
  }
  file.gpu_env = node.what.gpu_env;
  file.cpu_milli = order.holding.amount.cpu_milli;
  file.cpus = cpu_shares_.take(order.key, file.cpu_milli);
  file.memory_bytes = order.holding.amount.memory_bytes;
  file.hot = options_.hot.string();
  file.spool_bytes = options_.spool_bytes;
  file.processes = options_.processes;
  const fs::path folder = node_folder(order.holding.node) / to_string(order.key);
  Status prepared = make_folders(folder.parent_path(), 0700);  // somebody may have removed it
  if (prepared = prepared.ok() ? prepare_rank_folder(folder, file) : prepared; !prepared.ok()) {
    cpu_shares_.give_back(order.key);
    throw_away(order.key, folder);
    sink_(StartFailed{order.key, prepared.error().message});
    return;
  }
  // Every process of a rank can be told by these, wherever it goes.
  std::vector<std::string> environment = options_.environment;
  environment.push_back(fmt::format("QUAD_RANK_KEY={}", to_string(order.key)));
  environment.push_back(fmt::format("QUAD_RANK_FOLDER={}/", folder.string()));
  auto spawned = spawn_runner(options_.runner, folder, environment, boot_id_, options_.open_files);
  if (!spawned.ok()) {
    cpu_shares_.give_back(order.key);
    if (spawned.error().code != ErrorCode::kExists) {
      throw_away(order.key, folder);
    }
    sink_(StartFailed{order.key, spawned.error().message});
    return;
  }
  Runner runner;
  runner.key = order.key;
  runner.node = order.holding.node;
  runner.folder = folder;
  runner.process = spawned->process;
  runner.handle = std::move(spawned->handle);
  watch(std::move(runner));
}

void LocalEngine::carry_out(const Kill& kill) {
  const auto it = runners_.find(kill.key);
  if (it != runners_.end()) {
    if (frozen(it->second->node)) {
      it->second->kill_waits = true;  // no order reaches a frozen node
    } else {
      to_kill_.push_back(kill.key);
    }
    return;
  }
  bool waited = false;
  for (auto& [id, node] : nodes_) {
    const auto dropped =
        std::erase_if(node.waiting, [&](const StartOrder& order) { return order.key == kill.key; });
    if (dropped > 0) {
      waited = true;
      sink_(StartFailed{kill.key, fmt::format("it was told to end while {} was frozen, before it "
                                              "had started",
                                              id.value())});
    }
  }
  const auto ended = ended_.find(kill.key);
  const auto on = ended == ended_.end()
                      ? nodes_.end()
                      : nodes_.find(NodeId(ended->second.folder.parent_path().filename().string()));
  const bool node_speaks = on != nodes_.end() && on->second.going_down;
  if (!waited && !node_speaks) {
    sink_(RunnerEnded{kill.key, ended == ended_.end() ? std::nullopt : ended->second.result,
                      "its runner is not there"});
  }
}

void LocalEngine::carry_out(const Forget& forget) {
  if (const auto it = runners_.find(forget.key); it != runners_.end()) {
    it->second->forgotten = true;
    it->second->leave_by = std::chrono::steady_clock::now() + kLeaveTime;
    return;
  }
  for (auto& [id, node] : nodes_) {
    std::erase_if(node.waiting, [&](const StartOrder& order) { return order.key == forget.key; });
  }
  if (const auto it = ended_.find(forget.key); it != ended_.end()) {
    const fs::path folder = it->second.folder;
    throw_away(forget.key, folder);
  }
}

void LocalEngine::carry_out(const SetPower& change) {
  next_sweep_ =
      std::chrono::steady_clock::now();  // what ended on a frozen node was not looked after
  Node& node = nodes_.at(change.node);
  if (change.to == Power::kFailed) {
    fail_node(change.node, node);
  } else if (change.to == Power::kFrozen) {
    node.power = Power::kFrozen;
    node.thaw_after = false;
    stop_members(families_on(change.node), kStopTime);
  } else if (change.from == Power::kFrozen) {
    thaw_node(change.node, node);
  } else {
    node.back_after = true;
  }
}

void LocalEngine::carry_out(const Stop&) {
  stopping_ = true;
}

void LocalEngine::fail_node(const NodeId& id, Node& node) {
  const bool was_frozen = node.power == Power::kFrozen;
  node.power = Power::kFailed;
  node.going_down = true;
  node.back_after = false;
  node.thaw_after = false;
  node.waiting.clear();
  for (const auto& [key, runner] : runners_) {
    if (runner->node == id && (was_frozen || !runner->ended)) {
      runner->lost_power = true;
      to_kill_.push_back(key);
    }
  }
}

void LocalEngine::thaw_node(const NodeId& id, Node& node) {
  for (const auto& [key, runner] : runners_) {
    if (runner->node == id && runner->kill_waits) {
      to_kill_.push_back(key);
    }
  }
  kill_marked();
  // What is to be killed must not go on first.
  node.thaw_after =
      !to_kill_.empty() || !can_see(to_status(signal_members(families_on(id), SIGCONT)));
  if (node.thaw_after) {
    return;
  }
  node.power = Power::kOn;
  sink_(NodeBack{id});
  sink_(NodeSeen{id});
  for (StartOrder& order : std::exchange(node.waiting, {})) {
    carry_out(order);
  }
}

void LocalEngine::settle_power(const NodeId& id, Node& node) {
  if (node.thaw_after) {
    thaw_node(id, node);
  }
  if (node.going_down) {
    // Also those whose end will still be told: something of them may live until then.
    const bool gone = std::none_of(runners_.begin(), runners_.end(),
                                   [&](const auto& entry) { return entry.second->node == id; });
    if (!gone) {
      return;
    }
    node.going_down = false;
    sink_(NodeDown{id, "powered off"});
  }
  if (node.back_after) {
    node.back_after = false;
    node.power = Power::kOn;
    sink_(NodeBack{id});
    sink_(NodeSeen{id});
  }
}

void LocalEngine::runner_ended(Runner& runner) {
  siginfo_t info{};
  (void)::waitid(P_PIDFD, static_cast<id_t>(runner.handle.get()), &info, WEXITED | WNOHANG);
  runner.detail = describe_end(info);
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, runner.handle.get(), nullptr);
  by_number_.erase(runner.number);
  runner.handle.reset();
  runner.ended = true;
  const Instant now = std::chrono::steady_clock::now();
  const bool orderly =
      runner.forgotten && info.si_pid != 0 && info.si_code == CLD_EXITED && info.si_status == 0;
  runner.give_up = now + kSweepTime;
  next_sweep_ = std::min(next_sweep_, orderly ? now + kOrderlySweepPause : now);
  sweep_pause_ = kShortestSweepPause;
}

void LocalEngine::kill_marked() {
  std::vector<Runner*> marked;
  std::vector<RankKey> keys;
  std::vector<Family> families;
  for (const RankKey& key : std::exchange(to_kill_, {})) {
    if (const auto it = runners_.find(key); it != runners_.end() && !it->second->ended) {
      marked.push_back(it->second.get());
      keys.push_back(key);
      families.push_back(family_of(*it->second));
    }
  }
  if (marked.empty()) {
    return;
  }
  // Looked for while the runner lives: what it started is below it in the process tree only until
  // then.
  auto found = find_members(families, others_than(marked));
  if (!can_see(to_status(found))) {
    to_kill_ = std::move(keys);
    return;
  }
  std::vector<std::vector<Process>>& members = *found;
  for (std::size_t i = 0; i < marked.size(); ++i) {
    // The runner first, which might otherwise report how its rank was killed.
    ::syscall(SYS_pidfd_send_signal, marked[i]->handle.get(), SIGKILL, nullptr, 0);
    for (const Process& process : members[i]) {
      (void)send_signal(process, SIGKILL);  // the sweep finds those that did not get it
    }
    marked[i]->known = std::move(members[i]);
  }
}

void LocalEngine::sweep(Instant now) {
  if (now < next_sweep_) {
    return;
  }
  next_sweep_ = Instant::max();
  std::vector<Runner*> ended;
  std::vector<Family> families;
  for (const auto& [key, runner] : runners_) {
    if (runner->ended && !frozen(runner->node)) {
      ended.push_back(runner.get());
      families.push_back(family_of(*runner));
    }
  }
  if (ended.empty()) {
    return;
  }
  const auto found = signal_members(families, SIGKILL, others_than(ended));
  sweep_pause_ = std::min<std::chrono::milliseconds>(2 * sweep_pause_, kLongestSweepPause);
  if (!can_see(to_status(found))) {
    for (Runner* runner : ended) {
      runner->give_up = now + kSweepTime;
    }
    next_sweep_ = now + sweep_pause_;
    return;
  }
  const std::vector<std::vector<Process>>& members = *found;
  for (std::size_t i = 0; i < ended.size(); ++i) {
    Runner& runner = *ended[i];
    if (!members[i].empty() && now < runner.give_up) {
      for (const Process& process : members[i]) {
        const bool known = std::any_of(runner.known.begin(), runner.known.end(),
                                       [&](const Process& other) { return other.same(process); });
        runner.swept += known ? 0 : 1;
        if (!known) {
          runner.known.push_back(process);
        }
      }
      next_sweep_ = now + sweep_pause_;
      continue;
    }
    std::optional<job::RankEnd> result;
    if (auto read = read_result(runner.folder); read.ok()) {
      result = std::move(read).value();
    } else if (!runner.lost_power && now < runner.give_up) {
      next_sweep_ = now + sweep_pause_;
      continue;
    } else {
      runner.detail += fmt::format("; {}", read.error().message);
    }
    if (runner.swept > 0) {
      runner.detail +=
          fmt::format("; {} process{} that outlived it {} killed", runner.swept,
                      runner.swept == 1 ? "" : "es", runner.swept == 1 ? "was" : "were");
    }
    if (!members[i].empty()) {
      runner.detail += fmt::format("; process {} of it cannot be killed", members[i].front().pid);
    }
    report(runner, std::move(result));
  }
}

void LocalEngine::report(Runner& runner, std::optional<job::RankEnd> result) {
  const RankKey key = runner.key;
  const fs::path folder = runner.folder;
  cpu_shares_.give_back(key);
  remove_groups(folder, key);
  if (!runner.lost_power) {
    sink_(RunnerEnded{key, result, runner.detail});
  }
  ended_[key] = {folder, std::move(result)};
  if (runner.forgotten) {
    throw_away(key, folder);
  }
  runners_.erase(key);
}

void LocalEngine::throw_away(const RankKey& key, const fs::path& folder) {
  // One that cannot be moved stays until the next begin(), where control forgets it again.
  if (trash_->throw_away(folder).ok()) {
    ended_.erase(key);
  }
}

void LocalEngine::remove_groups(const fs::path& folder, const RankKey& key) {
  for (const fs::path& group : read_control_groups(folder, key)) {
    remove_group({group, kGroupTries});
  }
}

void LocalEngine::remove_group(const BusyGroup& group) {
  if (remove_control_group(group.path)) {
    return;
  }
  if (group.tries_left == 0) {
    spdlog::warn("the control group {} stays busy and is left behind", group.path.string());
    return;
  }
  busy_groups_.push_back({group.path, group.tries_left - 1});
}

void LocalEngine::beat(Instant now) {
  for (const BusyGroup& group : std::exchange(busy_groups_, {})) {
    remove_group(group);
  }
  for (const auto& [id, node] : nodes_) {
    if (node.power == Power::kOn) {
      sink_(NodeSeen{id});
    } else if (node.power == Power::kFrozen && !node.thaw_after) {
      stop_members(families_on(id), Millis(0));
    }
  }
  for (auto& [key, runner] : runners_) {
    if (runner->ended || runner->watched) {
      continue;
    }
    runner->watched = watch_end(*runner);
    pollfd end{runner->handle.get(), POLLIN, 0};
    if (!runner->watched && ::poll(&end, 1, 0) > 0) {
      runner_ended(*runner);
    }
  }
  for (const auto& [key, runner] : runners_) {
    if (runner->forgotten && !runner->ended && now >= runner->leave_by && !frozen(runner->node)) {
      to_kill_.push_back(key);
    }
  }
}

}  // namespace quad::engine
