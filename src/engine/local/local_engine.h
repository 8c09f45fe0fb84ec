// engine/local/local_engine.h
//
// How local.h keeps its promises. One thread owns everything that changes; the Engine's methods put
// orders in its queue. It waits on one epoll for the queue and for the end of each runner (a pidfd,
// which works for runners of an earlier server as well).
//
// A runner's way: alive -> sweeping (its process is gone; whatever it left behind is being killed)
// -> reported. Nothing of a rank lives when its RunnerEnded, or its node's NodeDown, is reported;
// only what the kernel cannot kill within half a minute is reported with a remark instead. While
// processes cannot be looked at (no file left to open, say), nothing is taken for ended: kills,
// sweeps and thaws are tried again until they can be, and a begin() is refused.

#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/file.h"
#include "base/time.h"
#include "engine/engine.h"
#include "engine/local/cpu_shares.h"
#include "engine/local/process.h"
#include "engine/local/trash.h"

namespace quad::engine {

/// A freeze takes at most about this much of the engine's time; what does not stand still by then
/// is stopped again with each beat.
inline constexpr Millis kStopTime{1000};

struct LocalNode {
  pool::NodeSpec spec;
  std::vector<std::int32_t> gpu_numbers;  ///< of each of the node's GPUs, as gpu_env names them
  std::string gpu_env;
};

struct LocalEngineOptions {
  std::filesystem::path data_dir;  ///< absolute
  std::filesystem::path hot;       ///< absolute; empty: the folder hot of data_dir
  std::filesystem::path runner;    ///< absolute
  std::string server_url;
  std::string server_ca;
  std::uint64_t open_files = 0;             ///< of runners; 0: as this process
  std::vector<std::string> environment;     ///< of runners: "NAME=value"
  std::vector<int> cpus;                    ///< that ranks may run on
  std::uint64_t spool_bytes = 1ULL << 30U;  ///< of output that a runner keeps
  std::int64_t processes = 0;               ///< of a rank, threads included; 0: no limit
  std::vector<LocalNode> nodes;
};

/// How often a busy control group is tried to be removed, once with each beat.
inline constexpr int kGroupTries = 30;

/// Whether something was possible, without what came of it.
template <typename T>
Status to_status(const Result<T>& result) {
  return result.ok() ? Status() : Status(result.error());
}

class LocalEngine final : public Engine {
 public:
  explicit LocalEngine(LocalEngineOptions options);
  ~LocalEngine() override;

  Result<std::vector<Inventory>> begin(Sink sink) override;
  [[nodiscard]] std::string engine_of(const NodeId& node) const override;
  void start(const StartOrder& order) override;
  void kill(const RankKey& key, const NodeId& node, Millis grace) override;
  void forget(const RankKey& key, const NodeId& node) override;
  Status node_action(const NodeId& node, const std::string& verb) override;
  void end() override;

 private:
  using Instant = std::chrono::steady_clock::time_point;
  enum class Power { kOn, kFailed, kFrozen };

  struct Kill {
    RankKey key;
  };
  struct Forget {
    RankKey key;
  };
  struct SetPower {
    NodeId node;
    Power from;
    Power to;
  };
  struct Stop {};
  using Task = std::variant<StartOrder, Kill, Forget, SetPower, Stop>;

  /// A runner that has been reported. Its result is read once, when it can be.
  struct Ended {
    std::filesystem::path folder;
    std::optional<job::RankEnd> result;
  };

  struct Node {
    LocalNode what;
    Power power = Power::kOn;
    bool thawed_last = false;         ///< what was last done to it, perhaps not to its end
    bool going_down = false;          ///< NodeDown follows when its last process is gone
    bool back_after = false;          ///< NodeBack follows that
    bool thaw_after = false;          ///< to be thawed as soon as its processes can be looked at
    std::vector<StartOrder> waiting;  ///< starts that were ordered while it was frozen
  };

  struct Runner {
    RankKey key;
    NodeId node;
    std::filesystem::path folder;
    Process process;
    UniqueFd handle;
    std::uint64_t number = 0;  ///< by which epoll names it
    bool watched = false;      ///< by epoll; the kernel may refuse to watch so many
    bool ended = false;        ///< its process is gone, and it is being swept up after
    bool lost_power = false;   ///< its node failed under it: NodeDown speaks for it
    bool kill_waits = false;   ///< ordered while its node was frozen
    bool forgotten = false;
    Instant leave_by{};          ///< when a forgotten one is killed
    Instant give_up{};           ///< when an ended one is reported with what is left of it
    std::string detail;          ///< how it ended
    std::vector<Process> known;  ///< its processes when it was killed
    std::size_t swept = 0;       ///< how many outlived it
  };

  // At start, in control's thread.
  Result<std::optional<Existing>> take_over(const NodeId& node, const std::filesystem::path& folder,
                                            const RankKey& key);
  Status load_power(const NodeId& id, Node& node);

  // In any thread of control's.
  void post(Task task);

  // In the engine's thread.
  void run();
  void carry_out(StartOrder& order);
  void carry_out(const Kill& kill);
  void carry_out(const Forget& forget);
  void carry_out(const SetPower& change);
  void carry_out(const Stop& stop);
  void fail_node(const NodeId& id, Node& node);
  void thaw_node(const NodeId& id, Node& node);
  void watch(Runner runner);
  bool watch_end(Runner& runner);
  void runner_ended(Runner& runner);
  void kill_marked();
  void sweep(Instant now);
  void report(Runner& runner, std::optional<job::RankEnd> result);
  bool can_see(const Status& looked);
  void settle_power(const NodeId& id, Node& node);
  void beat(Instant now);
  void throw_away(const RankKey& key, const std::filesystem::path& folder);
  struct BusyGroup {
    std::filesystem::path path;
    int tries_left = 0;
  };
  /// Of a dead rank. A busy one is tried again with each beat, for half a minute.
  void remove_groups(const std::filesystem::path& folder, const RankKey& key);
  void remove_group(const BusyGroup& group);

  [[nodiscard]] std::filesystem::path node_folder(const NodeId& id) const;
  [[nodiscard]] bool frozen(const NodeId& id) const;
  [[nodiscard]] static Family family_of(const Runner& runner);
  [[nodiscard]] std::vector<Family> families_on(const NodeId& id) const;
  [[nodiscard]] std::vector<Process> others_than(const std::vector<Runner*>& runners) const;

  LocalEngineOptions options_;
  std::string boot_id_;
  Sink sink_;
  std::map<NodeId, Power>
      asked_power_;  ///< control's thread only: what the last node_action made it

  std::mutex mutex_;  ///< guards `tasks_`, the way from control's thread to the engine's
  std::deque<Task> tasks_;
  UniqueFd wake_;

  // The engine's thread only, once it runs.
  UniqueFd epoll_;
  std::map<NodeId, Node> nodes_;
  CpuShares cpu_shares_;
  std::unordered_map<RankKey, std::unique_ptr<Runner>> runners_;
  std::unordered_map<std::uint64_t, Runner*> by_number_;
  std::unordered_map<RankKey, Ended> ended_;
  std::vector<RankKey> to_kill_;
  Instant retry_at_ = Instant::max();         ///< of kills and thaws that were not possible
  bool blind_ = false;                        ///< processes cannot be looked at, which was said
  std::chrono::milliseconds sweep_pause_{0};  ///< until it is looked again whether all have died
  Instant next_sweep_ = Instant::max();       ///< of what ended runners left behind
  std::uint64_t last_number_ = 0;             ///< 0 is the queue's
  std::vector<BusyGroup> busy_groups_;
  std::unique_ptr<Trash> trash_;
  bool stopping_ = false;

  std::thread thread_;
};

}  // namespace quad::engine
