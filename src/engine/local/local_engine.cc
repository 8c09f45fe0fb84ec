// What control's thread does: taking over what an earlier server left, and handing over orders. The
// engine's own thread is in local_engine_loop.cc.

#include "engine/local/local_engine.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <string_view>
#include <utility>

#include "base/machine.h"
#include "base/text.h"
#include "engine/local/rank_folder.h"

namespace quad::engine {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr const char* kPowerFile = "state";

// What ranks of dead runners still run is killed before anybody is told that they have ended.
Status kill_what_outlived(const std::vector<Family>& families) {
  const auto end = std::chrono::steady_clock::now() + 30s;
  for (auto pause = 2ms;; pause = std::min(2 * pause, 200ms)) {
    QUAD_ASSIGN(const auto found, signal_members(families, SIGKILL));
    const bool left =
        std::any_of(found.begin(), found.end(),
                    [](const std::vector<Process>& members) { return !members.empty(); });
    if (!left || std::chrono::steady_clock::now() > end) {
      return {};
    }
    std::this_thread::sleep_for(pause);
  }
}

// As it is, once it is no longer just being started.
Result<StartRecord> settled_record(const fs::path& folder, const std::string& boot_id) {
  const auto end = std::chrono::steady_clock::now() + 2s;
  for (;;) {
    QUAD_ASSIGN(const StartRecord record, read_start_record(folder, boot_id));
    if (record.state != StartRecord::State::kStarting) {
      return record;
    }
    if (std::chrono::steady_clock::now() > end) {
      return error(ErrorCode::kExists,
                   fmt::format("Another server is starting a runner in {}; only one may use this "
                               "data folder",
                               folder.string()));
    }
    std::this_thread::sleep_for(1ms);
  }
}

Result<std::vector<fs::path>> entries_of(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code failure;
  for (fs::directory_iterator it(folder, failure), end; !failure && it != end;
       it.increment(failure)) {
    entries.push_back(it->path());
  }
  if (failure && failure != std::errc::not_a_directory) {
    return errno_error(fmt::format("Cannot list {}", folder.string()), failure.value());
  }
  return entries;
}

}  // namespace

LocalEngine::LocalEngine(LocalEngineOptions options)
    : options_(std::move(options)), cpu_shares_(options_.cpus) {
  if (options_.hot.empty()) {
    options_.hot = options_.data_dir / "hot";
  }
  for (const LocalNode& node : options_.nodes) {
    nodes_[node.spec.id].what = node;
  }
}

LocalEngine::~LocalEngine() {
  end();
}

fs::path LocalEngine::node_folder(const NodeId& id) const {
  return options_.data_dir / "nodes" / id.value();
}

Status LocalEngine::load_power(const NodeId& id, Node& node) {
  QUAD_TRY(make_folders(node_folder(id), 0700));
  const auto text = read_file(node_folder(id) / kPowerFile, 64);
  if (!text.ok() && text.error().code != ErrorCode::kNotFound) {
    return text.error();
  }
  const std::string_view word = text.ok() ? trim(*text) : "";
  node.power = word == "failed" ? Power::kFailed : word == "frozen" ? Power::kFrozen : Power::kOn;
  node.thawed_last = word == "thawed";
  asked_power_[id] = node.power;
  return {};
}

Result<std::optional<Existing>> LocalEngine::take_over(const NodeId& node, const fs::path& folder,
                                                       const RankKey& key) {
  QUAD_ASSIGN(const StartRecord record, settled_record(folder, boot_id_));
  if (record.state == StartRecord::State::kNotStarted) {
    // Its order was never carried out. It will be given again, or was taken back.
    QUAD_TRY(trash_->throw_away(folder));
    return std::optional<Existing>();
  }
  QUAD_ASSIGN(UniqueFd handle, record.this_boot ? open_process(record.process) : UniqueFd());
  if (handle) {
    Runner runner;
    runner.key = key;
    runner.node = node;
    runner.folder = folder;
    runner.process = record.process;
    runner.handle = std::move(handle);
    cpu_shares_.restore(key, read_cpus(folder));
    watch(std::move(runner));
    return std::optional<Existing>({key, true, std::nullopt, node});
  }
  QUAD_ASSIGN(const auto result, read_result(folder));
  ended_[key] = {folder, result};
  return std::optional<Existing>({key, false, result, node});
}

Result<std::vector<Inventory>> LocalEngine::begin(Sink sink) {
  sink_ = std::move(sink);
  QUAD_ASSIGN(boot_id_, read_boot_id());
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  epoll_event event{};
  event.events = EPOLLIN;
  if (!epoll_ || !wake_ || ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) {
    return errno_error("Cannot watch processes", errno);
  }
  QUAD_TRY(make_folders(options_.hot, 0700));
  QUAD_TRY(make_folders(options_.data_dir / "trash", 0700));
  trash_ = std::make_unique<Trash>(options_.data_dir / "trash");
  for (auto& [id, node] : nodes_) {
    QUAD_TRY(load_power(id, node));
  }

  Inventory inventory;
  inventory.engine = "local";
  std::vector<Family> dead;
  QUAD_ASSIGN(const auto node_paths, entries_of(options_.data_dir / "nodes"));
  for (const fs::path& node_path : node_paths) {
    // Also of nodes that are not configured any more: their ranks are watched to their end all the
    // same.
    const NodeId id(node_path.filename().string());
    QUAD_ASSIGN(const auto folders, entries_of(node_path));
    for (const fs::path& folder : folders) {
      const auto key = parse_rank_key(folder.filename().string());
      if (!key) {
        continue;
      }
      QUAD_ASSIGN(std::optional<Existing> found, take_over(id, folder, *key));
      if (!found) {
        continue;
      }
      if (!found->alive) {
        dead.push_back({{}, to_string(*key), folder.string()});
        const auto node = nodes_.find(id);
        if (!found->result && node != nodes_.end() && node->second.power == Power::kFailed) {
          job::RankEnd lost;
          lost.how = job::RankEnd::How::kNodeLost;
          lost.detail = fmt::format("{} was powered off", id.value());
          found->result = std::move(lost);
          ended_[*key].result = found->result;
        }
      }
      inventory.existing.push_back(std::move(*found));
    }
  }
  QUAD_TRY(kill_what_outlived(dead));
  for (const auto& [key, ended] : ended_) {
    remove_groups(ended.folder, key);
  }

  for (auto& [id, node] : nodes_) {
    sink_(NodeFound{node.what.spec});
    if (node.power == Power::kFailed) {
      fail_node(id, node);  // whatever a server that was killed at that moment did not get to
      settle_power(id, node);
    } else if (node.power == Power::kFrozen) {
      stop_members(families_on(id), kStopTime);
    } else if (node.thawed_last) {
      // A server that was killed while it thawed the node may have left some that stand still.
      // Without a thaw, what stands still was stopped by somebody else, who will let it go on.
      std::vector<Family> standing;
      for (const auto& [key, runner] : runners_) {
        QUAD_ASSIGN(const auto process, find_process(runner->process.pid));
        if (runner->node == id && process && process->stopped()) {
          standing.push_back(family_of(*runner));
        }
      }
      QUAD_TRY(to_status(signal_members(standing, SIGCONT)));
      QUAD_TRY(write_file_atomically(node_folder(id) / kPowerFile, "on\n"));
    }
  }
  thread_ = std::thread([this] { run(); });
  return std::vector<Inventory>{std::move(inventory)};
}

std::string LocalEngine::engine_of(const NodeId& /*node*/) const {
  return "local";
}

void LocalEngine::post(Task task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  const std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

void LocalEngine::start(const StartOrder& order) {
  post(order);
}
void LocalEngine::kill(const RankKey& key, const NodeId& /*node*/, Millis /*grace*/) {
  post(Kill{key});
}
void LocalEngine::forget(const RankKey& key, const NodeId& /*node*/) {
  post(Forget{key});
}

Status LocalEngine::node_action(const NodeId& id, const std::string& verb) {
  const auto known = asked_power_.find(id);
  if (known == asked_power_.end()) {
    std::vector<std::string_view> names;
    for (const auto& [name, power] : asked_power_) {
      names.emplace_back(name.value());
    }
    const auto like = nearest(id.value(), names);
    return error(ErrorCode::kNotFound,
                 like ? fmt::format("There is no node '{}'; did you mean '{}'?", id.value(), *like)
                      : fmt::format("There is no node '{}'", id.value()));
  }
  constexpr std::array<std::string_view, 4> kVerbs = {"fail", "return", "freeze", "thaw"};
  if (std::find(kVerbs.begin(), kVerbs.end(), verb) == kVerbs.end()) {
    return error(
        ErrorCode::kInvalid,
        fmt::format("'{}' cannot be done to a node; fail, return, freeze and thaw can", verb));
  }
  // `nodes_` belongs to the engine's thread, but which nodes there are and what they are never
  // changes.
  if (!nodes_.at(id).what.spec.pretend) {
    return error(
        ErrorCode::kUnsupported,
        fmt::format("{} is this machine itself, which Quad does not {}; only pretend nodes "
                    "(--nodes N) have a power switch",
                    id.value(), verb));
  }
  const Power from = known->second;
  Power to = Power::kOn;
  if (verb == "fail") {
    to = Power::kFailed;
  } else if (verb == "freeze") {
    to = Power::kFrozen;
    if (from == Power::kFailed) {
      return error(
          ErrorCode::kExists,
          fmt::format("{} is powered off and cannot be frozen; 'return' it first", id.value()));
    }
  } else if (verb == "return" && from == Power::kFrozen) {
    return error(ErrorCode::kExists,
                 fmt::format("{} is frozen, not powered off; 'thaw' it", id.value()));
  } else if (verb == "thaw" && from == Power::kFailed) {
    return error(ErrorCode::kExists,
                 fmt::format("{} is powered off, not frozen; 'return' it", id.value()));
  }
  if (from == to) {
    return {};
  }
  // Written first: a server that is killed now finishes it when it begins again.
  QUAD_TRY(write_file_atomically(node_folder(id) / kPowerFile, to == Power::kFailed     ? "failed\n"
                                                               : to == Power::kFrozen   ? "frozen\n"
                                                               : from == Power::kFrozen ? "thawed\n"
                                                                                        : "on\n"));
  known->second = to;
  post(SetPower{id, from, to});
  return {};
}

void LocalEngine::end() {
  if (thread_.joinable()) {
    post(Stop{});
    thread_.join();
  }
  trash_.reset();
}

}  // namespace quad::engine
