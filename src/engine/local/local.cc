#include "engine/local/local.h"

#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "engine/local/detect.h"
#include "engine/local/process.h"
#include "job/record.h"

namespace quad::engine {

namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kPretendCpus = 8'000;
constexpr std::int64_t kPretendMemory = 64LL << 30;
/// How long a runner may take to leave after its end is durable, before it is killed.
constexpr auto kLeaveTime = std::chrono::seconds(10);

enum class Power { kOn, kFailed, kFrozen };

struct LocalNode {
  pool::NodeSpec spec;
  Power power = Power::kOn;
};

/// A runner that is, or was until a moment ago, a process.
struct Runner {
  RankKey key;
  NodeId node;
  fs::path folder;
  pid_t pid = 0;
  UniqueFd handle;
  std::uint64_t number = 0;  ///< by which the engine's thread is told of its end
  bool forgotten = false;  ///< its folder goes when it has ended
  std::chrono::steady_clock::time_point leave_by;
};

std::optional<RankKey> parse_key(const std::string& name) {
  const auto parts = split(name, '-');
  std::array<std::int64_t, 3> numbers{};
  if (parts.size() != numbers.size()) {
    return std::nullopt;
  }
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const auto [end, failure] = std::from_chars(parts[i].data(), parts[i].data() + parts[i].size(), numbers[i]);
    if (failure != std::errc() || end != parts[i].data() + parts[i].size()) {
      return std::nullopt;
    }
  }
  return RankKey{JobId(numbers[0]), Epoch(static_cast<std::int32_t>(numbers[1])),
                 Rank(static_cast<std::int32_t>(numbers[2]))};
}

std::optional<job::RankEnd> read_result(const fs::path& folder) {
  const auto text = read_file(folder / "result.json", 1U << 20U);
  if (!text.ok()) {
    return std::nullopt;
  }
  const auto object = parse_json_object(*text);
  return object.ok() ? std::optional(job::rank_end_from_json(*object)) : std::nullopt;
}

/// Removes folders in its own thread, as a rank's home may hold a million files.
class Remover {
 public:
  explicit Remover(fs::path trash) : trash_(std::move(trash)), thread_([this] { loop(); }) {}
  ~Remover() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  Remover(const Remover&) = delete;
  Remover& operator=(const Remover&) = delete;

  /// Takes the folder out of the way at once, and removes it when there is time.
  void remove(const fs::path& folder) {
    const fs::path aside = trash_ / random_hex(8);
    if (::rename(folder.c_str(), aside.c_str()) != 0) {
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      waiting_.push_back(aside);
    }
    wake_.notify_one();
  }

 private:
  void loop() {
    std::error_code failure;
    for (fs::directory_iterator it(trash_, failure), end; !failure && it != end; it.increment(failure)) {
      waiting_.push_back(it->path());  // left by an earlier server
    }
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
      if (stopping_) {
        return;  // what is left is removed by the next server
      }
      const std::vector<fs::path> now = std::exchange(waiting_, {});
      lock.unlock();
      for (const fs::path& folder : now) {
        fs::remove_all(folder, failure);
      }
      lock.lock();
    }
  }

  fs::path trash_;
  std::mutex mutex_;  ///< guards the two below: the engine's thread adds, this object's thread takes
  std::condition_variable wake_;
  std::vector<fs::path> waiting_;
  bool stopping_ = false;
  std::thread thread_;
};

class Local final : public Engine {
 public:
  Local(LocalOptions options, std::vector<LocalNode> nodes, bool amd)
      : options_(std::move(options)), amd_(amd) {
    for (LocalNode& node : nodes) {
      nodes_.emplace(node.spec.id, std::move(node));
    }
  }
  ~Local() override { end(); }

  Result<std::vector<Existing>> begin(Sink sink) override;
  void start(const StartOrder& order) override;
  void kill(const RankKey& key) override;
  void forget(const RankKey& key) override;
  Status node_action(const NodeId& node, const std::string& verb) override;
  void end() override;

 private:
  [[nodiscard]] fs::path node_folder(const NodeId& node) const { return options_.data_dir / "nodes" / node.value(); }
  [[nodiscard]] fs::path rank_folder(const NodeId& node, const RankKey& key) const {
    return node_folder(node) / to_string(key);
  }
  Status prepare(const StartOrder& order, const fs::path& folder) const;
  void adopt(const RankKey& key, const NodeId& node, const fs::path& folder, pid_t pid);
  void save_power(const LocalNode& node) const;
  void loop();
  void ended(const RankKey& key);
  void beat();
  static std::string reap(const Runner& runner);

  LocalOptions options_;
  bool amd_;
  Sink sink_;
  UniqueFd epoll_;
  UniqueFd wake_;
  std::thread thread_;
  std::unique_ptr<Remover> remover_;

  /// Guards the rest: control gives orders while the engine's thread sees runners end.
  std::mutex mutex_;
  std::map<NodeId, LocalNode> nodes_;
  std::unordered_map<RankKey, Runner> runners_;
  std::unordered_map<std::uint64_t, RankKey> by_number_;
  std::uint64_t last_number_ = 0;  ///< 0 is the wake-up
  bool stopping_ = false;
};

Result<std::vector<Existing>> Local::begin(Sink sink) {
  sink_ = std::move(sink);
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll_ || !wake_) {
    return errno_error("Cannot watch processes", errno);
  }
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = 0;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event);
  QUAD_TRY(make_folders(options_.data_dir / "hot", 0700));
  QUAD_TRY(make_folders(options_.data_dir / "nodes" / ".trash", 0700));
  remover_ = std::make_unique<Remover>(options_.data_dir / "nodes" / ".trash");

  std::vector<Existing> existing;
  const auto alive = find_runners(options_.runner.filename().string());
  std::error_code failure;
  for (fs::directory_iterator node_it(options_.data_dir / "nodes", failure), end; !failure && node_it != end;
       node_it.increment(failure)) {
    const NodeId node(node_it->path().filename().string());
    std::error_code inner;
    for (fs::directory_iterator it(node_it->path(), inner), inner_end; !inner && it != inner_end; it.increment(inner)) {
      const auto key = parse_key(it->path().filename().string());
      if (!key) {
        continue;
      }
      const auto running = alive.find(it->path().string());
      if (running != alive.end()) {
        adopt(*key, node, it->path(), running->second);
        existing.push_back({*key, true, std::nullopt});
      } else if (fs::exists(it->path() / "runner.pid", inner) || fs::exists(it->path() / "result.json", inner)) {
        existing.push_back({*key, false, read_result(it->path())});
      } else {
        remover_->remove(it->path());  // the order was never carried out: it will be given again
      }
    }
  }
  const std::lock_guard lock(mutex_);
  for (auto& [id, node] : nodes_) {
    QUAD_TRY(make_folders(node_folder(id), 0700));
    const std::string power = read_file(node_folder(id) / "power", 64).value_or("");
    node.power = power == "failed" ? Power::kFailed : power == "frozen" ? Power::kFrozen : Power::kOn;
    sink_(NodeFound{node.spec});
    if (node.power == Power::kFailed) {
      sink_(NodeDown{id, "powered off"});
    }
  }
  thread_ = std::thread([this] { loop(); });
  return existing;
}

void Local::adopt(const RankKey& key, const NodeId& node, const fs::path& folder, pid_t pid) {
  Runner runner{key, node, folder, pid, open_process(pid), ++last_number_, false, {}};
  if (!runner.handle) {
    // It ended before it could be watched: an event that is always ready stands in for its handle.
    runner.handle.reset(::eventfd(1, EFD_CLOEXEC));
  }
  epoll_event event{};
  event.events = EPOLLIN | EPOLLONESHOT;
  event.data.u64 = runner.number;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, runner.handle.get(), &event);
  by_number_.emplace(runner.number, key);
  runners_[key] = std::move(runner);
}

Status Local::prepare(const StartOrder& order, const fs::path& folder) const {
  const LocalNode& node = nodes_.at(order.holding.node);
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return errno_error(fmt::format("Cannot make {}", folder.string()), errno);
  }
  json::object start;
  start["server"] = options_.server_url;
  start["ca"] = "";
  start["token"] = order.token;
  start["job"] = order.key.job.value();
  start["epoch"] = order.key.epoch.value();
  start["rank"] = order.key.rank.value();
  start["node"] = order.holding.node.value();
  start["address"] = node.spec.address;
  start["gpus"] = json::array(order.holding.gpu_indices.begin(), order.holding.gpu_indices.end());
  start["gpu_env"] = amd_ ? "HIP_VISIBLE_DEVICES" : "CUDA_VISIBLE_DEVICES";
  start["cpu_milli"] = order.holding.amount.cpu_milli;
  start["memory_bytes"] = order.holding.amount.memory_bytes;
  start["hot"] = (options_.data_dir / "hot").string();
  // No fsync: after a power cut there is no runner that could want it, and the order is given again.
  const fs::path file = folder / "start.json";
  const UniqueFd fd(::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd) {
    return errno_error(fmt::format("Cannot write {}", file.string()), errno);
  }
  return write_all(fd.get(), to_text(start));
}

void Local::start(const StartOrder& order) {
  std::unique_lock lock(mutex_);
  const auto fail = [&](std::string reason) {
    lock.unlock();
    sink_(StartFailed{order.key, std::move(reason)});
  };
  if (runners_.contains(order.key)) {
    return;
  }
  const auto node = nodes_.find(order.holding.node);
  if (node == nodes_.end() || node->second.power == Power::kFailed) {
    fail(fmt::format("node {} is off", order.holding.node.value()));
    return;
  }
  const fs::path folder = rank_folder(order.holding.node, order.key);
  if (auto prepared = prepare(order, folder); !prepared.ok()) {
    fail(prepared.error().message);
    return;
  }
  const auto pid = spawn_runner(options_.runner, folder);
  if (!pid.ok()) {
    fail(pid.error().message);
    return;
  }
  adopt(order.key, order.holding.node, folder, *pid);
  if (node->second.power == Power::kFrozen) {
    signal_tree(*pid, SIGSTOP);
  }
}

void Local::kill(const RankKey& key) {
  const std::lock_guard lock(mutex_);
  if (const auto it = runners_.find(key); it != runners_.end()) {
    signal_tree(it->second.pid, SIGKILL);
  }
}

void Local::forget(const RankKey& key) {
  const std::lock_guard lock(mutex_);
  if (const auto it = runners_.find(key); it != runners_.end()) {
    it->second.forgotten = true;
    it->second.leave_by = std::chrono::steady_clock::now() + kLeaveTime;
    return;
  }
  for (const auto& [id, node] : nodes_) {
    const fs::path folder = rank_folder(id, key);
    if (fs::exists(folder)) {
      remover_->remove(folder);
    }
  }
}

void Local::save_power(const LocalNode& node) const {
  const fs::path file = node_folder(node.spec.id) / "power";
  const Status saved = write_file_atomically(file, node.power == Power::kFailed   ? "failed"
                                                   : node.power == Power::kFrozen ? "frozen"
                                                                                  : "on");
  if (!saved.ok()) {
    spdlog::warn("{}", saved.error().message);
  }
}

Status Local::node_action(const NodeId& id, const std::string& verb) {
  std::unique_lock lock(mutex_);
  const auto it = nodes_.find(id);
  if (it == nodes_.end()) {
    return error(ErrorCode::kNotFound, fmt::format("There is no node '{}'", id.value()));
  }
  LocalNode& node = it->second;
  if (!node.spec.pretend) {
    return error(ErrorCode::kUnsupported,
                 fmt::format("{} is this very machine, which has no power switch here; start the server with --nodes N "
                             "for pretend nodes",
                             id.value()));
  }
  std::vector<pid_t> here;
  for (const auto& [key, runner] : runners_) {
    if (runner.node == id) {
      here.push_back(runner.pid);
    }
  }
  if (verb == "fail") {
    node.power = Power::kFailed;
    save_power(node);
    for (const pid_t pid : here) {
      signal_tree(pid, SIGKILL);
    }
    lock.unlock();
    sink_(NodeDown{id, "powered off"});
  } else if (verb == "return") {
    if (node.power == Power::kFrozen) {
      return error(ErrorCode::kInvalid, fmt::format("{} is frozen, not off: use 'thaw'", id.value()));
    }
    node.power = Power::kOn;
    save_power(node);
    lock.unlock();
    sink_(NodeBack{id});
  } else if (verb == "freeze") {
    if (node.power == Power::kFailed) {
      return error(ErrorCode::kInvalid, fmt::format("{} is off: use 'return' first", id.value()));
    }
    node.power = Power::kFrozen;
    save_power(node);
    for (const pid_t pid : here) {
      signal_tree(pid, SIGSTOP);
    }
  } else if (verb == "thaw") {
    if (node.power != Power::kFrozen) {
      return error(ErrorCode::kInvalid, fmt::format("{} is not frozen", id.value()));
    }
    node.power = Power::kOn;
    save_power(node);
    for (const pid_t pid : here) {
      signal_tree(pid, SIGCONT);
    }
    lock.unlock();
    sink_(NodeSeen{id});
  } else {
    return error(ErrorCode::kInvalid,
                 fmt::format("'{}' cannot be done to a node; it can fail, return, freeze or thaw", verb));
  }
  return {};
}

std::string Local::reap(const Runner& runner) {
  siginfo_t info{};
  const bool child = runner.handle && ::waitid(P_PIDFD, static_cast<id_t>(runner.handle.get()), &info,
                                               WEXITED | WNOHANG) == 0 && info.si_pid != 0;
  if (!child) {
    return "its runner is gone";
  }
  if (info.si_code == CLD_EXITED) {
    return fmt::format("its runner exited with code {}", info.si_status);
  }
  const char* name = ::sigabbrev_np(info.si_status);
  return fmt::format("its runner was killed by SIG{}", name == nullptr ? "?" : name);
}

void Local::ended(const RankKey& key) {
  std::unique_lock lock(mutex_);
  const auto it = runners_.find(key);
  if (it == runners_.end()) {
    return;
  }
  const Runner runner = std::move(it->second);
  runners_.erase(it);
  std::string detail = reap(runner);
  const std::optional<job::RankEnd> result = read_result(runner.folder);
  if (!result) {
    // It left no result, so it was killed: nothing that it had started may live on.
    lock.unlock();
    if (const int killed = sweep(to_string(key), runner.folder); killed > 0) {
      spdlog::info("{} processes of rank {} outlived its runner and were killed", killed, to_string(key));
    }
    lock.lock();
  }
  if (runner.forgotten) {
    remover_->remove(runner.folder);
  }
  lock.unlock();
  sink_(RunnerEnded{key, result, std::move(detail)});
}

void Local::beat() {
  std::vector<Observation> seen;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, node] : nodes_) {
      if (node.power == Power::kOn) {
        seen.emplace_back(NodeSeen{id});
      }
    }
    const auto now = std::chrono::steady_clock::now();
    for (const auto& [key, runner] : runners_) {
      if (runner.forgotten && now > runner.leave_by) {
        signal_tree(runner.pid, SIGKILL);
      }
    }
  }
  for (Observation& one : seen) {
    sink_(std::move(one));
  }
}

void Local::loop() {
  auto next_beat = std::chrono::steady_clock::now();
  std::array<epoll_event, 64> events{};
  for (;;) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= next_beat) {
      beat();
      next_beat = now + std::chrono::seconds(1);
    }
    const auto wait = std::chrono::duration_cast<std::chrono::milliseconds>(next_beat - now).count() + 1;
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                                   static_cast<int>(std::clamp<std::int64_t>(wait, 0, 1000)));
    std::vector<RankKey> gone;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) {
        return;
      }
      for (int i = 0; i < count; ++i) {
        if (const auto it = by_number_.find(events[static_cast<std::size_t>(i)].data.u64); it != by_number_.end()) {
          gone.push_back(it->second);
          by_number_.erase(it);
        }
      }
    }
    for (const RankKey& key : gone) {
      ended(key);
    }
  }
}

void Local::end() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) {
    const std::uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);
    thread_.join();
  }
  remover_.reset();
}

}  // namespace

Result<std::unique_ptr<Engine>> make_local(LocalOptions options) {
  if (::access(options.runner.c_str(), X_OK) != 0) {
    return error(ErrorCode::kNotFound,
                 fmt::format("The runner program {} is missing; it belongs beside 'quad'", options.runner.string()));
  }
  options.data_dir = fs::absolute(options.data_dir);
  const Machine machine = detect_machine();
  std::vector<LocalNode> nodes;
  if (options.nodes < 0 || options.nodes > 1000) {
    return error(ErrorCode::kInvalid, fmt::format("--nodes {} is out of range; 0 to 1000 are possible", options.nodes));
  }
  if (options.nodes == 0) {
    if (!options.gpus.empty()) {
      return error(ErrorCode::kInvalid, "--gpus describes pretend nodes; give --nodes N with it");
    }
    std::array<char, 256> host{};
    ::gethostname(host.data(), host.size() - 1);
    LocalNode node;
    node.spec.id = NodeId(host[0] == '\0' ? "local" : host.data());
    node.spec.address = "127.0.0.1";
    node.spec.capacity = {machine.cpu_milli, machine.memory_bytes, static_cast<std::int32_t>(machine.gpus.size())};
    node.spec.gpu_model = machine.gpus.empty() ? "" : canonical_gpu(machine.gpus.front());
    nodes.push_back(std::move(node));
  }
  std::string model;
  std::int32_t gpus = 0;
  if (!options.gpus.empty()) {
    const auto colon = options.gpus.find(':');
    model = options.gpus.substr(0, colon);
    const std::string_view count = colon == std::string::npos ? "1" : std::string_view(options.gpus).substr(colon + 1);
    const auto [rest, failure] = std::from_chars(count.data(), count.data() + count.size(), gpus);
    if (model.empty() || failure != std::errc() || rest != count.data() + count.size() || gpus < 1 || gpus > 64) {
      return error(ErrorCode::kInvalid, fmt::format("--gpus '{}' is not understood; write it as H100:8", options.gpus));
    }
  }
  for (int i = 1; i <= options.nodes; ++i) {
    LocalNode node;
    node.spec.id = NodeId(fmt::format("local-{}", i));
    node.spec.address = fmt::format("127.64.{}.{}", i / 250, i % 250 + 1);
    node.spec.capacity = {options.cpu_milli > 0 ? options.cpu_milli : std::max(machine.cpu_milli, kPretendCpus),
                          options.memory_bytes > 0 ? options.memory_bytes : std::max(machine.memory_bytes, kPretendMemory),
                          gpus};
    node.spec.gpu_model = model;
    node.spec.pretend = true;
    nodes.push_back(std::move(node));
  }
  return std::unique_ptr<Engine>(std::make_unique<Local>(std::move(options), std::move(nodes), machine.amd));
}

}  // namespace quad::engine
