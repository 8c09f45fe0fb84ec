#include "control/control.h"

#include <spdlog/spdlog.h>

#include <condition_variable>
#include <mutex>
#include <thread>

namespace quad::control {

struct Control::State {
  State(Options options_in, store::Store& store_in, engine::Engine& engine_in,
        std::unique_ptr<plan::Scheduler> scheduler_in, const Clock& clock_in)
      : options(std::move(options_in)),
        store(store_in),
        engine(engine_in),
        scheduler(std::move(scheduler_in)),
        clock(clock_in) {}

  void post(Message message) {
    const std::lock_guard lock(mutex);
    inbox.push_back(std::move(message));
    if (inbox.size() == 1) {
      arrived.notify_one();
    }
  }

  /// Whether there is room for another request; engine and runner messages are never refused, as
  /// each is bounded by what runs.
  bool full() {
    const std::lock_guard lock(mutex);
    return inbox.size() >= options.inbox_limit;
  }

  void loop() {
    constexpr Millis kTick{250};
    for (bool last = false; !last;) {
      std::vector<Message> messages;
      {
        std::unique_lock lock(mutex);
        arrived.wait_for(lock, kTick, [this] { return !inbox.empty() || stopping; });
        messages.swap(inbox);
        last = stopping;
      }
      core->step(std::move(messages), clock.now());
    }
  }

  Options options;
  store::Store& store;
  engine::Engine& engine;
  std::unique_ptr<plan::Scheduler> scheduler;
  const Clock& clock;
  CommitListener listener;
  std::unique_ptr<Core> core;
  std::thread thread;

  /// Guards the inbox: its writers are many threads, and its reader sleeps.
  std::mutex mutex;
  std::condition_variable arrived;
  std::vector<Message> inbox;
  bool stopping = false;
};

Control::Control(Options options, store::Store& store, engine::Engine& engine,
                 std::unique_ptr<plan::Scheduler> scheduler, const Clock& clock)
    : state_(std::make_unique<State>(std::move(options), store, engine, std::move(scheduler),
                                     clock)) {}

Control::~Control() {
  stop();
}

Status Control::start(RunnerOrders orders) {
  State& s = *state_;
  s.core = std::make_unique<Core>(s.options, s.store, s.engine, std::move(s.scheduler),
                                  std::move(orders), s.listener);
  QUAD_ASSIGN(const auto inventories,
              s.engine.begin([&s](engine::Observation seen) { s.post(std::move(seen)); }));
  const Now now = s.clock.now();
  if (Status loaded = s.core->load(inventories, now); !loaded.ok()) {
    s.engine.end();  // its threads would go on telling an inbox that is no more
    return loaded;
  }
  // The first step takes the nodes that the engine has found, so that the first snapshot shows
  // them.
  std::vector<Message> messages;
  {
    const std::lock_guard lock(s.mutex);
    messages.swap(s.inbox);
  }
  s.core->step(std::move(messages), now);
  s.thread = std::thread([&s] { s.loop(); });
  return {};
}

void Control::stop() {
  State& s = *state_;
  if (!s.thread.joinable()) {
    return;
  }
  {
    const std::lock_guard lock(s.mutex);
    s.stopping = true;
    s.arrived.notify_one();
  }
  s.thread.join();
  s.engine.end();
}

std::shared_ptr<const Snapshot> Control::snapshot() const {
  return state_->core->snapshot();
}

std::size_t Control::inbox_length() const {
  const std::lock_guard lock(state_->mutex);
  return state_->inbox.size();
}

std::vector<RankLive> Control::live(JobId job) const {
  std::vector<RankLive> ranks;
  const auto record = snapshot()->find(job);
  const job::Attempt* attempt = record == nullptr ? nullptr : record->live();
  if (attempt == nullptr) {
    return ranks;
  }
  for (std::size_t i = 0; i < attempt->ranks.size(); ++i) {
    const RankKey key{job, attempt->epoch, Rank(static_cast<std::int32_t>(i))};
    if (auto live = state_->core->live().find(key)) {
      live->rank = key.rank;
      ranks.push_back(std::move(*live));
    }
  }
  return ranks;
}

void Control::submit(std::vector<Submission> submissions, SubmitDone done) {
  if (state_->full()) {
    done(error(ErrorCode::kExhausted,
               "The server has too many requests waiting; try again in a moment"));
    return;
  }
  state_->post(SubmitJobs{std::move(submissions), std::move(done)});
}

void Control::cancel(JobId job, std::string by, Done done) {
  state_->post(CancelJob{job, std::move(by), std::move(done)});
}

void Control::drain(NodeId node, bool drained, std::string by, Done done) {
  state_->post(DrainNode{std::move(node), drained, std::move(by), std::move(done)});
}

void Control::node_action(NodeId node, std::string verb, std::string by, Done done) {
  state_->post(ActOnNode{std::move(node), std::move(verb), std::move(by), std::move(done)});
}

void Control::set_setting(std::string key, std::string value, job::Event event, Done done) {
  state_->post(ChangeSetting{std::move(key), std::move(value), std::move(event), std::move(done)});
}

std::vector<std::pair<std::string, std::string>> Control::settings() const {
  return state_->core->settings();
}

void Control::record(job::Event event, Done done) {
  state_->post(RecordEvent{std::move(event), std::move(done)});
}

void Control::change_sessions(SessionChange change) {
  state_->post(change);
}

void Control::report(RunnerReport report) {
  state_->post(std::move(report));
}

void Control::report(HolderReport report) {
  state_->post(std::move(report));
}

void Control::change_cluster(ChangeCluster change) {
  state_->post(std::move(change));
}

void Control::heartbeat(const RankKey& key, RankLive live) {
  const Now now = state_->clock.now();
  live.heard = now.mono;
  live.heard_at = now.wall;
  state_->core->live().heartbeat(key, std::move(live));
}

void Control::disconnected(const RankKey& key) {
  state_->core->live().disconnected(key);
}

void Control::on_commit(CommitListener listener) {
  state_->listener = std::move(listener);
}

std::string Control::attempt_token(JobId job, Epoch epoch) const {
  return state_->core->attempt_token(job, epoch);
}

}  // namespace quad::control
