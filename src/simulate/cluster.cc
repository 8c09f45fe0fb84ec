#include "simulate/cluster.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <queue>
#include <random>
#include <set>

#include "control/core.h"
#include "job/record.h"
#include "simulate/memory_store.h"

namespace quad::simulate {

namespace {

constexpr std::int64_t kStart = 1'800'000'000'000;  // wall time at the beginning
constexpr Millis kStepTime{500};
constexpr const char* kEngine = "simulated";
/// A zombie that wakes up, or whose storage answers again, reads the fence within this time, and
/// dies of it.
constexpr Millis kZombieGrace{5'000};

struct Checkpoint {
  std::int64_t epoch = 0;
  std::int64_t step = 0;
  bool complete = false;
};

/// A job's folder on the hot tier.
struct HotFolder {
  std::int64_t fence = 0;
  std::vector<Checkpoint> checkpoints;
};

enum class Phase { kConnecting, kWaiting, kPreparing, kReady, kRunning, kEnded };

struct Runner {
  RankKey key;
  int node = 0;
  int gpus = 0;
  std::string nonce;
  Phase phase = Phase::kConnecting;
  bool connected = false;
  bool has_order = false;
  bool has_go = false;
  bool stopping = false;
  Millis lease{0};  ///< 0: not strict
  std::int64_t hello_at = 0;
  std::int64_t lease_asked =
      0;  ///< when it was asked for what was last answered: hello, heartbeat or fence
  bool waits_behind_fence = false;
  std::int64_t step = 0;
  std::int64_t resumed_step = 0;
  std::optional<job::RankEnd> result;
  std::vector<job::Happening> unacknowledged;  ///< in order; the first is acknowledged first
  std::uint64_t life = 0;  ///< changes when the process dies: late timers find that out
};

struct NodeSim {
  NodeId id;
  bool off = false;
  bool frozen = false;
  bool cut = false;
  bool stalled = false;  ///< the hot tier does not answer here
  std::int64_t thawed_at = 0;
  std::int64_t unstalled_at = 0;
};

}  // namespace

struct Cluster::World final : engine::Engine {
  explicit World(ClusterOptions options_in) : options(options_in), random(options_in.seed) {
    for (int i = 0; i < options.nodes; ++i) {
      nodes.push_back({.id = NodeId(fmt::format("n{:02}", i + 1))});
    }
    store = make_memory_store([this] {
      return store_refuses ? Status(error(ErrorCode::kExhausted, "no space left")) : Status();
    });
    boot();
    at(Millis(1000), [this] { beat(); });
    at(Millis(250), [this] { tick(); });
    schedule_faults();
  }

  // --- time
  // -----------------------------------------------------------------------------------------------------

  void at(Millis delay, std::function<void()> what) {
    timers.push(Timer{now_ms + delay.count(), ++sequence, std::move(what)});
  }
  [[nodiscard]] Now now() const {
    return {WallTime{kStart + now_ms + wall_offset}, MonoTime{now_ms}};
  }
  std::int64_t between(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(high - low + 1));
  }
  Millis jitter() { return Millis(between(1, 20)); }

  bool advance(std::int64_t until, const std::function<bool()>& done) {
    while (!timers.empty() && timers.top().when <= until && violation.empty() && !done()) {
      Timer timer = timers.top();
      timers.pop();
      now_ms = std::max(now_ms, timer.when);
      timer.what();
    }
    if (violation.empty() && !done()) {
      now_ms = std::max(now_ms, until);
    }
    return violation.empty();
  }

  void broken(std::string what) {
    if (violation.empty()) {
      violation = fmt::format("seed {}, at {} ms: {}", options.seed, now_ms, what);
    }
  }

  // --- the server
  // -----------------------------------------------------------------------------------------------

  void boot() {
    control::RunnerOrders orders;
    orders.order = [this](const RankKey& key, const auto& job) {
      to_runner(key, [this, job](Runner& r) { take_order(r, *job); });
    };
    orders.go = [this](const RankKey& key, const auto& /*job*/) {
      to_runner(key, [this](Runner& r) { take_go(r); });
    };
    orders.end_fence_wait = [this](const RankKey& key) {
      to_runner(key, [this](Runner& r) {
        if (r.waits_behind_fence) {
          choose_checkpoint(r);
        }
      });
    };
    orders.stop = [this](const RankKey& key, Millis grace, const std::string& /*reason*/) {
      to_runner(key, [this, grace](Runner& r) { take_stop(r, grace); });
    };
    orders.leave = [this](const RankKey& key, const std::string& nonce,
                          const std::string& /*reason*/) {
      to_runner(key, [this, nonce](Runner& r) {
        if (r.nonce == nonce) {
          die(r.key, std::nullopt);
        }
      });
    };
    orders.bye = [this](const RankKey& key) {
      to_runner(key, [this](Runner& r) {
        if (r.phase == Phase::kEnded) {
          die(r.key, r.result);
        }
      });
    };
    control::Options control_options;
    control_options.attempt_key = "simulated";
    core = std::make_unique<control::Core>(control_options, *store, *this, plan::make_fifo(),
                                           std::move(orders), control::CommitListener());
    auto inventories = begin({});
    if (auto loaded = core->load(inventories.value(), now()); !loaded.ok()) {
      broken("the store cannot be loaded: " + loaded.error().message);
      return;
    }
    for (const NodeSim& node : nodes) {
      pool::NodeSpec spec{node.id, "127.0.0.1", {64'000, 512LL << 30, options.gpus_per_node},
                          "H100",  true,        kEngine};
      inbox.emplace_back(engine::Observation(engine::NodeFound{spec}));
      if (node.off) {
        inbox.emplace_back(engine::Observation(engine::NodeDown{node.id, "powered off"}));
      }
    }
    serve();
    for (auto& [key, runner] : runners) {
      runner.connected = false;
      reconnect(key);
    }
  }

  void crash(Millis down_for) {
    if (core == nullptr) {
      return;
    }
    core.reset();
    inbox.clear();
    for (auto& [key, runner] : runners) {
      runner.connected = false;
    }
    at(down_for, [this] { boot(); });
  }

  void tell(control::Message message) {
    inbox.push_back(std::move(message));
    if (inbox.size() == 1) {
      at(Millis(0), [this] { serve(); });
    }
  }

  void serve() {
    if (core == nullptr) {
      return;
    }
    core->step(std::exchange(inbox, {}), now());
    check();
  }

  void tick() {
    serve();
    at(Millis(250), [this] { tick(); });
  }

  void check() {
    if (std::string fault = core->check(); !fault.empty()) {
      broken(fault);
    }
    std::map<int, int> used;
    for (const auto& [key, runner] : runners) {
      used[runner.node] +=
          runner.phase == Phase::kEnded ? 0 : runner.gpus;  // an ended one waits for its bye
    }
    for (const auto& [node, gpus] : used) {
      if (gpus > options.gpus_per_node) {
        std::string who;
        for (const auto& [key, runner] : runners) {
          if (runner.node == node) {
            who += fmt::format(" {} ({} GPUs, phase {}{})", to_string(key), runner.gpus,
                               static_cast<int>(runner.phase),
                               runner.connected ? "" : ", not connected");
          }
        }
        broken(fmt::format("{} GPUs are in use on node {}:{}", gpus, node, who));
      }
    }
  }

  // --- the engine
  // -----------------------------------------------------------------------------------------------

  Result<std::vector<engine::Inventory>> begin(engine::Sink /*sink*/) override {
    engine::Inventory inventory;
    inventory.engine = kEngine;
    std::vector<engine::Existing>& existing = inventory.existing;
    for (const auto& [key, runner] : runners) {
      existing.push_back(
          {key, true, std::nullopt, nodes[static_cast<std::size_t>(runner.node)].id});
    }
    for (const auto& [key, result] : left_behind) {
      existing.push_back({key, false, result, NodeId()});
    }
    return std::vector<engine::Inventory>{std::move(inventory)};
  }
  [[nodiscard]] std::string engine_of(const NodeId& /*node*/) const override { return kEngine; }

  void start(const engine::StartOrder& order) override {
    if (runners.contains(order.key) || left_behind.contains(order.key)) {
      return;
    }
    int index = 0;
    while (nodes[static_cast<std::size_t>(index)].id != order.holding.node) {
      ++index;
    }
    if (nodes[static_cast<std::size_t>(index)].off) {
      at(jitter(), [this, key = order.key] {
        observe(engine::StartFailed{key, "the node is off"});
      });
      return;
    }
    Runner runner;
    runner.key = order.key;
    runner.node = index;
    runner.gpus = order.holding.amount.gpus;
    runner.nonce = fmt::format("{:x}", random());
    runner.life = ++lives;
    runners.emplace(order.key, std::move(runner));
    reconnect(order.key);
  }

  void kill(const RankKey& key, const NodeId& /*node*/, Millis /*grace*/) override {
    at(jitter(), [this, key] {
      const bool out_of_sight =
          std::any_of(hidden_ends.begin(), hidden_ends.end(),
                      [&](const auto& hidden) { return hidden.first == key; });
      if (runners.contains(key)) {
        die(key, std::nullopt);
      } else if (!out_of_sight) {
        const auto left = left_behind.find(key);
        observe(engine::RunnerEnded{key, left == left_behind.end() ? std::nullopt : left->second,
                                    "its process is not there"});
      }
    });
  }
  void forget(const RankKey& key, const NodeId& /*node*/) override { left_behind.erase(key); }
  Status node_action(const NodeId& /*node*/, const std::string& /*verb*/) override { return {}; }
  void end() override {}

  /// The engine's own channel; lost while the server is down.
  void observe(engine::Observation seen) {
    if (core != nullptr) {
      tell(std::move(seen));
    }
  }

  void beat() {
    for (const NodeSim& node : nodes) {
      if (!node.off && !node.frozen && !node.cut) {
        observe(engine::NodeSeen{node.id});
      }
    }
    for (auto& [key, runner] : runners) {
      if (reachable(runner) && runner.connected && core != nullptr) {
        control::RankLive live;
        live.rank = key.rank;
        live.heard = now().mono;
        live.heard_at = now().wall;
        core->live().heartbeat(key, live);
        renew_by_server(runner);
      }
    }
    at(Millis(1000), [this] { beat(); });
  }

  /// The server answers a heartbeat by the records that it has published, and the lease runs from
  /// the heartbeat.
  void renew_by_server(const Runner& runner) {
    const auto job = core->snapshot()->find(runner.key.job);
    if (job != nullptr && job->request->recovery.strict_fence &&
        job::is_in_charge(*job, runner.key, runner.nonce)) {
      to_runner(runner.key,
                [asked = now_ms](Runner& r) { r.lease_asked = std::max(r.lease_asked, asked); });
    }
  }

  // --- runners
  // --------------------------------------------------------------------------------------------------

  [[nodiscard]] bool reachable(const Runner& runner) const {
    const NodeSim& node = nodes[static_cast<std::size_t>(runner.node)];
    return core != nullptr && !node.cut && !node.frozen;
  }

  /// Runs `what` on the runner after `delay`, unless it has died by then; while its node stands
  /// still, later.
  void later(const Runner& runner, Millis delay, std::function<void(Runner&)> what) {
    at(delay, [this, key = runner.key, life = runner.life, what = std::move(what)] {
      const auto it = runners.find(key);
      if (it == runners.end() || it->second.life != life) {
        return;
      }
      if (nodes[static_cast<std::size_t>(it->second.node)].frozen) {
        later(it->second, Millis(200), what);
        return;
      }
      what(it->second);
    });
  }

  void reconnect(const RankKey& key) {
    const auto it = runners.find(key);
    if (it == runners.end()) {
      return;
    }
    later(it->second, Millis(between(5, 300)), [this](Runner& r) {
      if (!reachable(r)) {
        reconnect(r.key);
        return;
      }
      r.connected = true;
      r.hello_at = now_ms;
      if (r.phase == Phase::kConnecting) {
        r.phase = Phase::kWaiting;
      }
      deliver(r, job::RankHello{r.key.epoch, r.key.rank, r.nonce, "127.0.0.1", 4000}, false);
      for (const job::Happening& one : r.unacknowledged) {
        deliver(r, one, true);
      }
    });
  }

  void send(Runner& runner, const job::Happening& happening) {
    runner.unacknowledged.push_back(happening);
    deliver(runner, happening, true);
  }

  void deliver(Runner& runner, const job::Happening& happening, bool keeps) {
    if (!runner.connected) {
      return;
    }
    const bool twice = options.message_repeated > 0 &&
                       static_cast<double>(random() % 10'000) < options.message_repeated * 10'000;
    // One connection keeps its order: each message arrives after the one before it.
    runner_clock[runner.key] = std::max(runner_clock[runner.key] + 1, now_ms + between(1, 15));
    for (int copy = 0; copy < (twice ? 2 : 1); ++copy) {
      at(Millis(runner_clock[runner.key] - now_ms),
         [this, key = runner.key, nonce = runner.nonce, happening, keeps, copy] {
           if (core == nullptr) {
             return;
           }
           control::RunnerReport report{key, nonce, happening, nullptr};
           if (keeps && copy == 0) {
             report.durable = [this, key, nonce] {
               at(jitter(), [this, key, nonce] {
                 const auto it = runners.find(key);
                 if (it != runners.end() && it->second.nonce == nonce &&
                     !it->second.unacknowledged.empty()) {
                   it->second.unacknowledged.erase(it->second.unacknowledged.begin());
                 }
               });
             };
           }
           tell(std::move(report));
         });
    }
  }

  void to_runner(const RankKey& key, std::function<void(Runner&)> what) {
    const auto it = runners.find(key);
    if (it == runners.end()) {
      return;
    }
    later(it->second, jitter(), [this, what = std::move(what)](Runner& r) {
      if (r.connected && reachable(r)) {
        what(r);
      }
    });
  }

  void take_order(Runner& runner, const job::Job& job) {
    if (runner.has_order || runner.stopping || runner.phase == Phase::kEnded) {
      return;
    }
    runner.has_order = true;
    runner.phase = Phase::kPreparing;
    const job::Attempt* attempt = job.live();
    runner.lease = attempt == nullptr ? Millis(0) : attempt->lease;
    runner.lease_asked = std::max(runner.lease_asked, runner.hello_at);  // the order answers it
    if (!may_go_on(runner)) {
      return;
    }
    if (runner.key.rank == Rank(0)) {
      raise_fence(runner, attempt == nullptr ? Millis(0) : attempt->fence_wait);
    } else {
      set_up(runner);
    }
  }

  void raise_fence(Runner& runner, Millis wait) {
    once_storage_answers(runner, [this, wait](Runner& r) {
      HotFolder& hot = folders[r.key.job];
      if (hot.fence > r.key.epoch.value()) {
        die(r.key, std::nullopt);
        return;
      }
      hot.fence = r.key.epoch.value();
      r.waits_behind_fence = true;
      later(r, wait, [this](Runner& waited) {
        if (waited.waits_behind_fence) {
          choose_checkpoint(waited);
        }
      });
    });
  }

  void choose_checkpoint(Runner& runner) {
    runner.waits_behind_fence = false;
    once_storage_answers(runner, [this](Runner& r) {
      if (r.phase != Phase::kPreparing) {
        return;
      }
      const HotFolder& hot = folders[r.key.job];
      std::int64_t best = -1;
      for (const Checkpoint& one : hot.checkpoints) {
        if (one.complete && one.epoch < r.key.epoch.value()) {
          best = std::max(best, one.step);
        }
      }
      r.resumed_step = std::max<std::int64_t>(best, 0);
      r.step = r.resumed_step;
      job::Resume resume;
      resume.path = best >= 0 ? fmt::format("step-{}", best) : "";
      resume.step = best;
      send(r, job::ResumeChosen{r.key.epoch, resume});
      set_up(r);
    });
  }

  void set_up(Runner& runner) {
    send(runner, job::RankSettingUp{runner.key.epoch, runner.key.rank});
    expect_alone(runner);
    later(runner, Millis(between(5, 800)), [this](Runner& ready) {
      if (ready.phase == Phase::kPreparing && may_go_on(ready)) {
        expect_alone(ready);
        ready.phase = Phase::kReady;
        send(ready, job::RankReady{ready.key.epoch, ready.key.rank});
      }
    });
  }

  void once_storage_answers(const Runner& runner, std::function<void(Runner&)> what) {
    later(runner, Millis(1), [this, what = std::move(what)](Runner& r) {
      if (nodes[static_cast<std::size_t>(r.node)].stalled) {
        at(Millis(200), [this, key = r.key, what] {
          if (const auto it = runners.find(key); it != runners.end()) {
            once_storage_answers(it->second, what);
          }
        });
        return;
      }
      what(r);
    });
  }

  /// What each runner looks at all the time: the fence, if the storage answers, and its lease.
  /// False if it has ended.
  bool may_go_on(Runner& runner) {
    const bool stalled = nodes[static_cast<std::size_t>(runner.node)].stalled;
    if (!stalled && folders[runner.key.job].fence > runner.key.epoch.value()) {
      die(runner.key, std::nullopt);
      return false;
    }
    if (!stalled && runner.lease.count() > 0) {
      runner.lease_asked = now_ms;
    }
    if (runner.lease.count() > 0 && now_ms >= runner.lease_asked + runner.lease.count()) {
      job::RankEnd end;
      end.how = job::RankEnd::How::kSignaled;
      end.code = 9;
      end.by_quad = true;
      end.detail = "its lease ran out";
      conclude(runner, std::move(end));
      return false;
    }
    return true;
  }

  /// User code of this rank does something now. In a strict job nothing of another attempt may do
  /// so any more: neither later than a newer attempt, nor with a lease that still holds.
  void expect_alone(const Runner& runner) {
    if (runner.lease.count() == 0) {
      return;
    }
    std::int32_t& newest = newest_user_code[runner.key.job];
    if (runner.key.epoch.value() < newest) {
      broken(fmt::format("rank {} of a strict job still ran after attempt {} had begun",
                         to_string(runner.key), newest));
    }
    newest = std::max(newest, runner.key.epoch.value());
    for (const auto& [key, other] : runners) {
      if (key.job == runner.key.job && key.epoch < runner.key.epoch && other.has_order &&
          other.phase != Phase::kEnded && now_ms < other.lease_asked + other.lease.count()) {
        broken(fmt::format("rank {} of a strict job runs while rank {} has a lease",
                           to_string(runner.key), to_string(key)));
      }
    }
  }

  void take_go(Runner& runner) {
    if (runner.has_go || runner.phase != Phase::kReady || !may_go_on(runner)) {
      return;
    }
    runner.has_go = true;
    runner.phase = Phase::kRunning;
    expect_alone(runner);
    for (const auto& [key, other] : runners) {
      if (key.job == runner.key.job && key.epoch == runner.key.epoch &&
          other.phase < Phase::kReady) {
        broken(fmt::format("rank {} runs before rank {} is ready", to_string(runner.key),
                           to_string(key)));
      }
      const NodeSim& node = nodes[static_cast<std::size_t>(other.node)];
      const bool excused = node.frozen || node.stalled ||
                           now_ms - node.thawed_at <= kZombieGrace.count() ||
                           now_ms - node.unstalled_at <= kZombieGrace.count();
      if (key.job == runner.key.job && key.epoch < runner.key.epoch &&
          other.phase == Phase::kRunning && !excused) {
        broken(fmt::format("rank {} runs while rank {} still runs", to_string(runner.key),
                           to_string(key)));
      }
    }
    work(runner);
  }

  void work(Runner& runner) {
    later(runner, kStepTime, [this](Runner& r) {
      if (r.phase != Phase::kRunning || !may_go_on(r)) {
        return;
      }
      expect_alone(r);
      const Workload& load = workloads.at(r.key.job);
      ++r.step;
      if (r.key.rank == Rank(0)) {
        if (load.checkpoint_every > 0 && r.step % load.checkpoint_every == 0) {
          write_checkpoint(r);
        }
        if (r.step >= load.steps) {
          finish(r, load.exit_code);
          return;
        }
      } else if (r.step + r.resumed_step >= load.steps) {
        finish(r, 0);
        return;
      }
      work(r);
    });
  }

  void write_checkpoint(Runner& runner) {
    auto& all = folders[runner.key.job].checkpoints;
    all.push_back({runner.key.epoch.value(), runner.step, false});
    later(runner, Millis(150), [this, step = runner.step](Runner& r) {
      if (nodes[static_cast<std::size_t>(r.node)].stalled) {
        return;  // it stays half written
      }
      for (Checkpoint& one : folders[r.key.job].checkpoints) {
        if (one.epoch == r.key.epoch.value() && one.step == step) {
          one.complete = true;
        }
      }
      send(r, job::CheckpointSeen{r.key.epoch, fmt::format("step-{}", step), step, 1, ""});
    });
  }

  void finish(Runner& runner, int code) {
    job::RankEnd end;
    end.how = job::RankEnd::How::kExited;
    end.code = code;
    conclude(runner, std::move(end));
  }

  void take_stop(Runner& runner, Millis grace) {
    if (runner.stopping || runner.phase == Phase::kEnded) {
      return;
    }
    runner.stopping = true;
    later(runner, Millis(between(0, std::max<std::int64_t>(grace.count(), 1))), [this](Runner& r) {
      if (r.phase != Phase::kEnded) {
        job::RankEnd end;
        end.how = r.phase == Phase::kRunning ? job::RankEnd::How::kSignaled
                                             : job::RankEnd::How::kNeverRan;
        end.code = 15;
        end.by_quad = true;
        conclude(r, std::move(end));
      }
    });
  }

  void conclude(Runner& runner, job::RankEnd end) {
    runner.phase = Phase::kEnded;
    runner.result = end;
    ended_steps[runner.key.job] = std::max(ended_steps[runner.key.job], runner.step);
    send(runner, job::RankEnded{runner.key.epoch, runner.key.rank, std::move(end)});
  }

  // The key by value: the caller's may be the one of the runner that is erased here.
  void die(RankKey key,
           std::optional<job::RankEnd> result) {  // NOLINT(performance-unnecessary-value-param)
    const auto it = runners.find(key);
    if (it == runners.end()) {
      return;
    }
    if (!result && it->second.result) {
      result = it->second.result;  // it had been written to disk
    }
    const bool seen = !nodes[static_cast<std::size_t>(it->second.node)].cut;
    runners.erase(it);
    left_behind[key] = result;
    if (seen) {
      at(jitter(), [this, key, result] {
        observe(engine::RunnerEnded{key, result, "its process is gone"});
      });
    } else {
      hidden_ends.push_back({key, result});
    }
  }

  // --- faults
  // ---------------------------------------------------------------------------------------------------

  void every(Millis mean, std::function<void()> what) {
    if (mean.count() <= 0) {
      return;
    }
    at(Millis(between(mean.count() / 2, mean.count() * 3 / 2)),
       [this, mean, what = std::move(what)] {
         if (!quiet) {
           what();
           every(mean, what);
         }
       });
  }

  int any_node() { return static_cast<int>(between(0, options.nodes - 1)); }

  void schedule_faults() {
    every(options.node_power, [this] {
      const int index = any_node();
      power_off(index);
      at(Millis(between(5'000, 60'000)), [this, index] { power_on(index); });
    });
    every(options.node_freeze, [this] {
      const int index = any_node();
      nodes[static_cast<std::size_t>(index)].frozen = true;
      at(Millis(between(2'000, 60'000)), [this, index] { thaw(index); });
    });
    every(options.partition, [this] {
      const int index = any_node();
      nodes[static_cast<std::size_t>(index)].cut = true;
      at(Millis(between(2'000, 60'000)), [this, index] { heal(index); });
    });
    every(options.clock_jump, [this] { wall_offset += between(-86'400'000, 86'400'000); });
    every(options.cancel, [this] {
      if (!acknowledged.empty()) {
        cancel(acknowledged[static_cast<std::size_t>(
            between(0, static_cast<std::int64_t>(acknowledged.size()) - 1))]);
      }
    });
    every(options.storage_stall, [this] {
      const int index = any_node();
      nodes[static_cast<std::size_t>(index)].stalled = true;
      at(Millis(between(2'000, 90'000)), [this, index] { unstall(index); });
    });
    every(options.runner_kill, [this] {
      if (!runners.empty()) {
        auto it = runners.begin();
        std::advance(it, between(0, static_cast<std::int64_t>(runners.size()) - 1));
        die(it->first, std::nullopt);
      }
    });
    every(options.runner_hide, [this] {
      if (runners.empty()) {
        return;
      }
      auto it = runners.begin();
      std::advance(it, between(0, static_cast<std::int64_t>(runners.size()) - 1));
      job::RankEnd doubtful;
      doubtful.how = job::RankEnd::How::kGone;
      doubtful.confirmed = false;
      doubtful.detail = "its pod was force-deleted";
      observe(engine::RunnerEnded{it->first, doubtful, ""});
      at(Millis(between(0, 60'000)), [this, key = it->first] { die(key, std::nullopt); });
    });
    every(options.rank_kill, [this] {
      if (!runners.empty()) {
        auto it = runners.begin();
        std::advance(it, between(0, static_cast<std::int64_t>(runners.size()) - 1));
        if (it->second.phase == Phase::kRunning) {
          job::RankEnd end;
          end.how = job::RankEnd::How::kSignaled;
          end.code = 9;
          conclude(it->second, end);
        }
      }
    });
    every(options.server_crash, [this] { crash(Millis(between(100, 10'000))); });
    every(options.store_refuses, [this] {
      store_refuses = true;
      at(Millis(between(500, 10'000)), [this] { store_refuses = false; });
    });
  }

  void power_off(int index) {
    NodeSim& node = nodes[static_cast<std::size_t>(index)];
    node.off = true;
    std::vector<RankKey> dead;
    for (const auto& [key, runner] : runners) {
      if (runner.node == index) {
        dead.push_back(key);
      }
    }
    for (const RankKey& key : dead) {
      const auto result = runners.at(key).result;
      runners.erase(key);
      left_behind[key] = result;
      if (node.cut) {
        hidden_ends.push_back({key, result});
      }
    }
    if (!node.cut) {
      observe(engine::NodeDown{node.id, "powered off"});
    }
  }
  void power_on(int index) {
    nodes[static_cast<std::size_t>(index)].off = false;
    observe(engine::NodeBack{nodes[static_cast<std::size_t>(index)].id});
  }
  void thaw(int index) {
    NodeSim& node = nodes[static_cast<std::size_t>(index)];
    node.thawed_at = node.frozen ? now_ms : node.thawed_at;
    node.frozen = false;
  }
  void unstall(int index) {
    NodeSim& node = nodes[static_cast<std::size_t>(index)];
    node.unstalled_at = node.stalled ? now_ms : node.unstalled_at;
    node.stalled = false;
  }
  void heal(int index) {
    NodeSim& node = nodes[static_cast<std::size_t>(index)];
    node.cut = false;
    if (node.off) {
      observe(engine::NodeDown{node.id, "powered off"});
    }
    for (const auto& [key, result] : std::exchange(hidden_ends, {})) {
      observe(engine::RunnerEnded{key, result, "its process is gone"});
    }
    for (auto& [key, runner] : runners) {
      if (runner.node == index) {
        runner.connected = false;
        reconnect(key);
      }
    }
  }

  void cancel(JobId job) {
    if (core != nullptr) {
      tell(control::CancelJob{job, "ana", [this, job](const Status& status) {
                                if (status.ok()) {
                                  cancelled.insert(job);
                                }
                              }});
    }
  }

  struct Timer {
    std::int64_t when = 0;
    std::uint64_t number = 0;
    std::function<void()> what;
    bool operator<(const Timer& other) const {
      return when != other.when ? when > other.when : number > other.number;
    }
  };

  ClusterOptions options;
  std::mt19937_64 random;
  std::int64_t now_ms = 1'000'000;
  std::uint64_t sequence = 0;
  std::uint64_t lives = 0;
  std::priority_queue<Timer> timers;
  std::vector<NodeSim> nodes;
  std::unique_ptr<store::Store> store;
  bool store_refuses = false;
  bool quiet = false;
  std::unique_ptr<control::Core> core;
  std::vector<control::Message> inbox;
  std::map<RankKey, Runner> runners;  ///< whose process is alive
  std::map<RankKey, std::optional<job::RankEnd>> left_behind;
  std::vector<std::pair<RankKey, std::optional<job::RankEnd>>> hidden_ends;
  std::map<RankKey, std::int64_t> runner_clock;
  std::map<JobId, HotFolder> folders;
  std::map<JobId, std::int32_t>
      newest_user_code;  ///< of strict jobs: the newest attempt whose user code ran
  std::map<JobId, Workload> workloads;
  std::map<JobId, std::int64_t> ended_steps;
  std::vector<JobId> acknowledged;
  std::uint64_t submissions = 0;
  std::int64_t wall_offset = 0;
  std::set<JobId> cancelled;
  std::string violation;
};

Cluster::Cluster(ClusterOptions options) : world_(std::make_unique<World>(options)) {}
Cluster::~Cluster() = default;

void Cluster::submit(const Workload& workload) {
  World& world = *world_;
  control::Submission submission;
  submission.client_key = fmt::format("k{}", ++world.submissions);
  job::Request& request = submission.request;
  request.name = submission.client_key;
  request.owner = "ana";
  request.ranks = workload.ranks;
  request.priority = workload.priority;
  request.shapes = {{{1000, 1LL << 30, workload.gpus}, workload.gpus > 0 ? "H100" : ""}};
  request.recovery.max_without_progress = 1'000'000;  // faults come thicker here than anywhere
  request.stop_grace = Millis(2000);
  request.recovery.strict_fence = workload.strict_fence;
  request.recovery.max_restarts_on_errors = workload.restarts_on_errors;
  request.body = "{}";
  // As a client would: the same key again until there is an answer.
  struct Client {
    static void ask(World& w, const control::Submission& s, const Workload& load) {
      auto answered = std::make_shared<bool>(false);
      if (w.core != nullptr) {
        control::SubmitJobs message{{s}, [&w, answered, load](Result<std::vector<JobId>> ids) {
                                      if (ids.ok() && !*answered) {
                                        *answered = true;
                                        w.acknowledged.push_back(ids->front());
                                        w.workloads[ids->front()] = load;
                                      }
                                    }};
        w.tell(std::move(message));
      }
      w.at(Millis(2000), [&w, s, load, answered] {
        if (!*answered) {
          ask(w, s, load);
        }
      });
    }
  };
  Client::ask(world, submission, workload);
}

void Cluster::cancel(JobId job) {
  world_->cancel(job);
}
void Cluster::fail_node(int index) {
  world_->power_off(index);
}
void Cluster::return_node(int index) {
  world_->power_on(index);
}
void Cluster::freeze_node(int index) {
  world_->nodes[static_cast<std::size_t>(index)].frozen = true;
}
void Cluster::thaw_node(int index) {
  world_->thaw(index);
}
void Cluster::kill_runner(JobId job, int rank) {
  for (const auto& [key, runner] : world_->runners) {
    if (key.job == job && key.rank == Rank(rank)) {
      world_->die(RankKey(key), std::nullopt);
      return;
    }
  }
}
void Cluster::crash_server(Millis down_for) {
  world_->crash(down_for);
}

bool Cluster::run(Millis duration) {
  return world_->advance(world_->now_ms + duration.count(), [] { return false; });
}

bool Cluster::settle(Millis limit) {
  World& world = *world_;
  world.quiet = true;
  world.store_refuses = false;
  for (int i = 0; i < world.options.nodes; ++i) {
    world.thaw(i);
    world.unstall(i);
    world.heal(i);
    if (world.nodes[static_cast<std::size_t>(i)].off) {
      world.power_on(i);
    }
  }
  const auto all_ended = [&world] {
    if (world.core == nullptr || world.acknowledged.size() < world.submissions) {
      return false;
    }
    const auto snapshot = world.core->snapshot();
    return std::all_of(world.acknowledged.begin(), world.acknowledged.end(), [&](JobId id) {
      const auto job = snapshot->find(id);
      return job != nullptr && job::is_terminal(job->status);
    });
  };
  world.advance(world.now_ms + limit.count(), all_ended);
  if (world.violation.empty() && !all_ended()) {
    world.broken("not every job ended:\n" + describe());
  }
  return world.violation.empty();
}

std::vector<Outcome> Cluster::outcomes() const {
  std::vector<Outcome> all;
  if (world_->core == nullptr) {
    return all;
  }
  const auto snapshot = world_->core->snapshot();
  for (const JobId id : world_->acknowledged) {
    const auto job = snapshot->find(id);
    all.push_back({id, job->status, job->epoch().value(),
                   world_->ended_steps.contains(id) ? world_->ended_steps.at(id) : 0,
                   world_->cancelled.contains(id)});
  }
  return all;
}

const std::string& Cluster::violation() const {
  return world_->violation;
}

std::string Cluster::digest() const {
  std::string text;
  store::EventFilter filter;
  filter.limit = 1'000'000;
  const auto events = world_->store->events(filter);
  for (const job::Event& event : *events) {
    text += to_text(job::to_json(event)) + "\n";
  }
  return fmt::format("{} events, {:x}", events->size(), std::hash<std::string>{}(text));
}

std::string Cluster::describe() const {
  std::string text;
  store::EventFilter filter;
  filter.limit = 1'000'000;
  const auto events = world_->store->events(filter);
  for (std::size_t i = events->size() > 40 ? events->size() - 40 : 0; i < events->size(); ++i) {
    const job::Event& event = (*events)[i];
    text += fmt::format("{} job {} epoch {} {} {}\n", event.at.millis - kStart, event.job.value(),
                        event.epoch.value(), event.kind, event.message);
  }
  if (world_->core == nullptr) {
    return "the server is down";
  }
  const auto snapshot = world_->core->snapshot();
  for (const JobId id : world_->acknowledged) {
    const auto job = snapshot->find(id);
    if (job != nullptr && !job::is_terminal(job->status)) {
      text += fmt::format("job {}: {} epoch {}: {}\n", id.value(), to_string(job->status),
                          job->epoch().value(), job->message);
      if (const auto* attempt = job->live()) {
        for (std::size_t i = 0; i < attempt->ranks.size(); ++i) {
          const RankKey key{id, attempt->epoch, Rank(static_cast<std::int32_t>(i))};
          text += fmt::format("  rank {} on {}: {}{}\n", i, attempt->ranks[i].holding.node.value(),
                              to_string(attempt->ranks[i].phase),
                              world_->runners.contains(key) ? "" : ", no process");
        }
      }
    }
  }
  for (const auto& [id, node] : snapshot->pool.nodes()) {
    text += fmt::format("node {}: {}, {} GPUs free\n", id.value(), to_string(node.health),
                        node.free.gpus);
  }
  return text + snapshot->breaker;
}

}  // namespace quad::simulate
