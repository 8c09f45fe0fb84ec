#include "control/core.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "base/text.h"

namespace quad::control {

namespace {

constexpr std::size_t kChunk = Snapshot::kChunk;

std::pair<std::size_t, std::size_t> place_of(JobId id) {
  const auto at = static_cast<std::size_t>(id.value() - 1);
  return {at / kChunk, at % kChunk};
}

/// How long a runner that was told to end may take beyond its grace before the engine kills it.
/// For a runner that may be about to say hello.
constexpr Millis kKillUnborn{1'000};
constexpr Millis kKillMargin{3'000};

/// A queue longer than this is shown with up to this delay, as listing it costs O(its length).
constexpr std::size_t kSmallQueue = 500;
constexpr Millis kQueueAge{100};
/// How long an engine may take to tell why a rank was stopped: a kubelet writes it when the
/// container has ended.
constexpr Millis kWordPatience{10'000};

}  // namespace

std::shared_ptr<const job::Job> Snapshot::find(JobId id) const {
  if (id.value() < 1) {
    return nullptr;
  }
  const auto [chunk, slot] = place_of(id);
  return chunk < chunks.size() && slot < chunks[chunk]->size() ? (*chunks[chunk])[slot] : nullptr;
}

std::int64_t Snapshot::last_job() const {
  return chunks.empty()
             ? 0
             : static_cast<std::int64_t>((chunks.size() - 1) * kChunk + chunks.back()->size());
}

void LiveTable::heartbeat(const RankKey& key, RankLive live) {
  const std::lock_guard lock(mutex_);
  live.connected = true;
  ranks_[key] = std::move(live);
}

void LiveTable::connected(const RankKey& key, Now now) {
  const std::lock_guard lock(mutex_);
  RankLive& live = ranks_[key];
  live.rank = key.rank;
  live.connected = true;
  live.heard = now.mono;
  live.heard_at = now.wall;
}

void LiveTable::disconnected(const RankKey& key) {
  const std::lock_guard lock(mutex_);
  if (const auto it = ranks_.find(key); it != ranks_.end()) {
    it->second.connected = false;
  }
}

void LiveTable::erase(const RankKey& key) {
  const std::lock_guard lock(mutex_);
  ranks_.erase(key);
}

void LiveTable::shift(Millis gap) {
  const std::lock_guard lock(mutex_);
  for (auto& [key, live] : ranks_) {
    live.heard = live.heard + gap;
  }
}

std::optional<RankLive> LiveTable::find(const RankKey& key) const {
  const std::lock_guard lock(mutex_);
  const auto it = ranks_.find(key);
  return it == ranks_.end() ? std::nullopt : std::optional(it->second);
}

Core::Core(Options options, store::Store& store, engine::Engine& engine,
           std::unique_ptr<plan::Scheduler> scheduler, RunnerOrders orders, CommitListener listener)
    : options_(std::move(options)),
      store_(store),
      engine_(engine),
      scheduler_(std::move(scheduler)),
      orders_(std::move(orders)),
      listener_(std::move(listener)) {}

std::string Core::attempt_token(JobId job, Epoch epoch) const {
  const std::string text = fmt::format("attempt/{}/{}", job.value(), epoch.value());
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  HMAC(EVP_sha256(), options_.attempt_key.data(), static_cast<int>(options_.attempt_key.size()),
       reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest, &size);
  return fmt::format("{}.{}.{}", job.value(), epoch.value(),
                     to_hex({reinterpret_cast<const char*>(digest), size}));
}

std::shared_ptr<const Snapshot> Core::snapshot() const {
  const std::lock_guard lock(published_mutex_);
  return published_;
}

std::vector<std::pair<std::string, std::string>> Core::settings() const {
  const std::lock_guard lock(published_mutex_);
  return published_settings_;
}

const job::Job* Core::find(JobId id) const {
  if (id.value() < 1 || id.value() > last_job_) {
    return nullptr;
  }
  const auto [chunk, at] = place_of(id);
  return at < chunks_[chunk]->size() ? (*chunks_[chunk])[at].get() : nullptr;
}

job::Job* Core::edit(JobId id) {
  if (find(id) == nullptr) {
    return nullptr;
  }
  const auto [chunk, at] = place_of(id);
  if (cloned_chunks_.insert(chunk).second) {
    chunks_[chunk] = std::make_shared<Snapshot::Chunk>(*chunks_[chunk]);
  }
  std::shared_ptr<const job::Job>& slot = (*chunks_[chunk])[at];
  if (cloned_jobs_.insert(id).second) {
    slot = std::make_shared<job::Job>(*slot);
  }
  // The clone was made in this step and is not shared yet.
  return const_cast<job::Job*>(slot.get());  // NOLINT(cppcoreguidelines-pro-type-const-cast)
}

void Core::step(std::vector<Message> messages, Now now) {
  for (Message& message : messages) {
    std::visit([&](auto& one) { handle(one, now); }, message);
  }
  tick(now);
  settle_clusters(now);
  plan(now);
  if (!commit()) {
    return;
  }
  publish(now);
  // Orders and answers may make more work for this core only through its inbox, never by calling
  // back into it.
  const std::vector<job::Effect> effects = std::exchange(effects_, {});
  for (const job::Effect& effect : effects) {
    execute(effect, now);
  }
  const auto answers = std::exchange(answers_, {});
  for (const auto& answer : answers) {
    answer();
  }
}

Status Core::check_room_for(const SubmitJobs& message) const {
  // What was acknowledged before is answered again in any case.
  std::map<std::string, std::int64_t> more;  // by owner
  for (const Submission& one : message.submissions) {
    const bool known = !one.client_key.empty() &&
                       client_keys_.contains(std::make_pair(one.request.owner, one.client_key));
    more[one.request.owner] += known ? 0 : 1;
  }
  std::erase_if(more, [](const auto& entry) { return entry.second == 0; });
  if (more.empty()) {
    return {};
  }
  for (const auto& [owner, count] : more) {
    const auto found = active_.find(owner);
    const auto active =
        found == active_.end() ? 0 : static_cast<std::int64_t>(found->second.size());
    if (options_.active_per_user && active + count > *options_.active_per_user) {
      return error(ErrorCode::kExhausted,
                   fmt::format("At most {} jobs of one user may wait or run here, and {} has {}: "
                               "wait until one has ended, or cancel one",
                               *options_.active_per_user, owner, active));
    }
  }
  return store_.room();
}

void Core::handle(SubmitJobs& message, Now now) {
  if (store_failure_) {
    message.done(*store_failure_);
    return;
  }
  if (Status room = check_room_for(message); !room.ok()) {
    message.done(room.error());
    return;
  }
  std::vector<JobId> ids;
  for (Submission& submission : message.submissions) {
    const auto key = std::make_pair(submission.request.owner, submission.client_key);
    if (!submission.client_key.empty()) {
      if (const auto known = client_keys_.find(key); known != client_keys_.end()) {
        ids.push_back(known->second);
        continue;
      }
    }
    if (submission.cluster) {
      if (Status usable = use_cluster(*submission.cluster, key.first, now); !usable.ok()) {
        message.done(usable.error());
        return;
      }
    }
    ids.push_back(accept(std::move(submission.request), submission.client_key, now));
  }
  answers_.emplace_back([done = std::move(message.done), ids = std::move(ids)] { done(ids); });
}

void Core::put(JobId id, std::shared_ptr<const job::Job> job) {
  const auto [chunk, at] = place_of(id);
  while (chunks_.size() <= chunk) {
    cloned_chunks_.insert(chunks_.size());
    chunks_.push_back(std::make_shared<Snapshot::Chunk>());
  }
  if (cloned_chunks_.insert(chunk).second) {
    auto copy = std::make_shared<Snapshot::Chunk>();
    copy->reserve(kChunk);
    *copy = *chunks_[chunk];
    chunks_[chunk] = std::move(copy);
  }
  chunks_[chunk]->reserve(kChunk);
  chunks_[chunk]->resize(at);  // there may be a gap before it
  chunks_[chunk]->push_back(std::move(job));
  last_job_ = id.value();
}

JobId Core::accept(job::Request request, const std::string& client_key, Now now) {
  const auto key = std::make_pair(request.owner, client_key);
  const JobId id(last_job_ + 1);
  job::Step step;
  job::Job job =
      job::submit(id, std::make_shared<job::Request>(std::move(request)), now.wall, step);
  put(id, std::make_shared<job::Job>(std::move(job)));
  cloned_jobs_.insert(id);
  new_jobs_.emplace(id, client_key);
  active_[key.first].insert(id);
  if (!client_key.empty()) {
    client_keys_.emplace(key, id);
  }
  events_.insert(events_.end(), std::make_move_iterator(step.events.begin()),
                 std::make_move_iterator(step.events.end()));
  scheduler_->enqueue(*find(id));
  touch_cluster(*find(id));
  return id;
}

void Core::handle(CancelJob& message, Now now) {
  const job::Job* job = find(message.job);
  if (job == nullptr) {
    answers_.emplace_back([done = std::move(message.done), id = message.job] {
      done(error(ErrorCode::kNotFound, fmt::format("There is no job {}", id.value())));
    });
    return;
  }
  if (job->request->kind == job::Kind::kHolder) {
    answers_.emplace_back([done = std::move(message.done), id = message.job,
                           cluster = job->request->cluster] {
      done(error(ErrorCode::kInvalid,
                 fmt::format("Job {} holds the nodes of cluster {}; end that with `quad down {}`, "
                             "or `quad stop {}` to keep its name",
                             id.value(), cluster, cluster, cluster)));
    });
    return;
  }
  apply(message.job, job::CancelAsked{message.by}, now);
  answers_.emplace_back([done = std::move(message.done)] { done(Status()); });
}

void Core::handle(DrainNode& message, Now now) {
  const pool::Node* known = pool_.find(message.node);
  if (known == nullptr || known->spec.by_name) {
    answers_.emplace_back([done = std::move(message.done), node = message.node] {
      done(error(ErrorCode::kNotFound, fmt::format("There is no node '{}'", node.value())));
    });
    return;
  }
  const std::string reason = message.drained ? fmt::format("drained by {}", message.by) : "";
  pool_.set_drained(message.node, message.drained, reason);
  touch_clusters();
  pool_changed_ = true;
  set_setting("drained/" + message.node.value(), reason);
  record_node_event(message.node, message.drained ? "node.drained" : "node.resumed", message.by,
                    message.drained
                        ? fmt::format("Nothing new starts on {}: {}.", message.node.value(), reason)
                        : fmt::format("{} takes work again.", message.node.value()),
                    now);
  answers_.emplace_back([done = std::move(message.done)] { done(Status()); });
}

void Core::handle(ActOnNode& message, Now now) {
  if (pool_.find(message.node) == nullptr) {
    answers_.emplace_back([done = std::move(message.done), node = message.node] {
      done(error(ErrorCode::kNotFound, fmt::format("There is no node '{}'", node.value())));
    });
    return;
  }
  record_node_event(
      message.node, "node." + message.verb, message.by,
      fmt::format("{} asked for '{}' of {}.", message.by, message.verb, message.node.value()), now);
  answers_.emplace_back([this, done = std::move(message.done), node = message.node,
                         verb = message.verb] { done(engine_.node_action(node, verb)); });
}

void Core::handle(ChangeSetting& message, Now now) {
  set_setting(message.key, message.value);
  message.event.at = now.wall;
  events_.push_back(std::move(message.event));
  answers_.emplace_back([done = std::move(message.done)] { done(Status()); });
}

void Core::handle(RecordEvent& message, Now now) {
  message.event.at = now.wall;
  events_.push_back(std::move(message.event));
  answers_.emplace_back([done = std::move(message.done)] { done(Status()); });
}

void Core::handle(const SessionChange& message, Now /*now*/) {
  int& open = sessions_[message.job];
  open += message.by;
  if (open <= 0) {
    sessions_.erase(message.job);
  }
}

void Core::handle(RunnerReport& message, Now now) {
  if (std::holds_alternative<job::RankHello>(message.happening)) {
    live_.connected(message.key, now);
    const job::Job* job = find(message.key.job);
    const job::Attempt* attempt = job == nullptr ? nullptr : job->live();
    if (attempt == nullptr || attempt->epoch != message.key.epoch || !attempt->stopping) {
      kill_at_.erase(message.key);  // it came in time; one that is being stopped has to end as well
    }
  } else if (const job::RankRecord* rank = find_rank(message.key);
             rank != nullptr && rank->nonce != message.nonce) {
    // Only the runner that was accepted speaks for its rank.
    effects_.emplace_back(
        job::DismissRunner{message.key, message.nonce, "another runner has this rank"});
    return;
  }
  if (const auto* ended = std::get_if<job::RankEnded>(&message.happening);
      ended != nullptr && is_held(message.key, *ended)) {
    held_ends_.insert_or_assign(message.key, HeldEnd{*ended, now.mono + kWordPatience});
    apply(message.key.job, job::RankStopped{ended->epoch, ended->rank, ended->end.detail}, now);
  } else if (ended == nullptr || !held_ends_.contains(message.key)) {
    apply(message.key.job, message.happening, now);
  }
  if (message.durable) {
    answers_.push_back(std::move(message.durable));
  }
}

bool Core::is_held(const RankKey& key, const job::RankEnded& ended) const {
  const job::Job* job = find(key.job);
  const job::Attempt* attempt = job == nullptr ? nullptr : job->live();
  const job::RankRecord* rank = find_rank(key);
  return ended.end.by_quad && rank != nullptr && attempt != nullptr &&
         attempt->epoch == key.epoch && !attempt->stopping && !rank->end && !rank->taken;
}

void Core::release_end(const RankKey& key, Now now) {
  if (const auto held = held_ends_.extract(key)) {
    apply(key.job, held.mapped().ended, now);
  }
}

void Core::handle(engine::Observation& message, Now now) {
  std::visit([&](const auto& one) { observe(one, now); }, message);
}

void Core::observe(const engine::NodeFound& found, Now now) {
  const pool::Node* known = pool_.find(found.spec.id);
  if (known != nullptr && known->spec == found.spec) {
    return;
  }
  pool_.put_node(found.spec);
  pool_changed_ = true;
  if (const auto drained = settings_.find("drained/" + found.spec.id.value());
      drained != settings_.end()) {
    pool_.set_drained(found.spec.id, true, drained->second);
    touch_clusters();
  }
  Silence& silence =
      silence_.try_emplace(found.spec.id, Silence{.engine_seen = now.mono}).first->second;
  if (known == nullptr) {
    if (const auto away = away_.find(found.spec.engine); away != away_.end()) {
      pool_.set_health(found.spec.id, pool::NodeHealth::kSuspect, why_away(away->second));
      silence.found_away = true;
    }
    spdlog::info("node {}: {} CPUs, {:.1f} GiB, {} x {}", found.spec.id.value(),
                 found.spec.capacity.cpu_milli / 1000,
                 static_cast<double>(found.spec.capacity.memory_bytes) / (1LL << 30),
                 found.spec.capacity.gpus,
                 found.spec.gpu_model.empty() ? "no GPU" : found.spec.gpu_model);
  }
}

void Core::observe(const engine::NodeSeen& seen, Now now) {
  const auto it = silence_.find(seen.node);
  if (it == silence_.end()) {
    return;
  }
  it->second.engine_seen = std::max(it->second.engine_seen, now.mono + -seen.ago);
  it->second.silent_since.reset();
  it->second.holds_breaker = false;
}

void Core::observe(const engine::NodeDown& down, Now now) {
  if (const auto it = silence_.find(down.node); it != silence_.end()) {
    it->second.removed = it->second.removed || down.removed;
    if (std::exchange(it->second.down, true) && !down.certain) {
      return;
    }
    drop_removed_nodes(now);
  }
  lose_node(down.node, down.certain, down.reason, now);
}

void Core::observe(const engine::NodeBack& back, Now now) {
  const auto it = silence_.find(back.node);
  if (it == silence_.end()) {
    return;
  }
  it->second = Silence{.engine_seen = now.mono};
  if (const pool::Node* node = pool_.find(back.node); node->health != pool::NodeHealth::kReady) {
    pool_.set_health(back.node, pool::NodeHealth::kReady, "");
    pool_changed_ = true;
    record_node_event(back.node, "node.ready", "engine",
                      fmt::format("{} is back.", back.node.value()), now);
  }
}

void Core::observe(const engine::RunnerEnded& ended, Now now) {
  release_end(ended.key, now);
  job::RankEnd end;
  if (ended.result) {
    end = *ended.result;
  } else {
    end.how = job::RankEnd::How::kGone;
    end.detail = ended.detail;
  }
  apply(ended.key.job, job::RankEnded{ended.key.epoch, ended.key.rank, std::move(end)}, now);
}

void Core::observe(const engine::RankTaken& taken, Now now) {
  apply(taken.key.job, job::RankTaken{taken.key.epoch, taken.key.rank, taken.taken}, now);
  release_end(taken.key, now);
}

void Core::observe(const engine::StartFailed& failed, Now now) {
  job::RankEnd end;
  end.how = job::RankEnd::How::kNeverRan;
  end.detail = failed.reason;
  end.in_setup = failed.of_task;
  apply(failed.key.job, job::RankEnded{failed.key.epoch, failed.key.rank, std::move(end)}, now);
}

void Core::observe(const engine::StartWaits& waits, Now now) {
  // How long a start may take is for its engine to say; one that is being stopped gets no more
  // time.
  const job::Job* job = find(waits.key.job);
  const job::Attempt* attempt = job == nullptr ? nullptr : job->live();
  if (const auto kill = kill_at_.find(waits.key);
      kill != kill_at_.end() && attempt != nullptr && !attempt->stopping) {
    kill->second = now.mono + options_.start_timeout;
  }
  apply(waits.key.job, job::StartDelayed{waits.key.epoch, waits.key.rank, waits.reason}, now);
}

void Core::observe(const engine::Inventory& inventory, Now now) {
  reconcile(inventory, now);
}

void Core::observe(const engine::EngineAway& away, Now now) {
  const bool was = away_.contains(away.engine);
  if (away.reason.empty()) {
    away_.erase(away.engine);
    pool_changed_ = true;
  } else {
    const auto before = std::exchange(away_[away.engine], away);
    pool_changed_ = true;
    if (was && before.blind == away.blind) {
      return;
    }
  }
  if (!was && away.reason.empty()) {
    return;
  }
  job::Event event;
  event.at = now.wall;
  event.kind = away.reason.empty() ? "engine.back" : "engine.away";
  event.actor = "engine";
  event.message =
      away.reason.empty()
          ? fmt::format("The engine {} sees its nodes again, and gives orders.", away.engine)
          : fmt::format("The engine {} {}: {}. What runs there runs on; nothing new starts there.",
                        away.engine, away.blind ? "does not see its nodes" : "gives no orders",
                        away.reason);
  events_.push_back(std::move(event));
}

void Core::apply(JobId id, const job::Happening& happening, Now now) {
  job::Job* job = edit(id);
  if (job == nullptr) {
    return;
  }
  job::Step step = job::apply(*job, happening, now.wall);
  events_.insert(events_.end(), std::make_move_iterator(step.events.begin()),
                 std::make_move_iterator(step.events.end()));
  for (job::Effect& effect : step.effects) {
    if (const auto* release = std::get_if<job::ReleaseRank>(&effect)) {
      // Free for this very step's plan: the end and whatever is placed in its stead become durable
      // together.
      pool_.release(release->key);
      pool_changed_ = true;
    }
    effects_.push_back(std::move(effect));
  }
  if (step.changed) {
    changed_jobs_.insert(id);
    settle(*job);
  }
}

void Core::settle(const job::Job& job) {
  touch_cluster(job);
  const bool live = job.live() != nullptr;
  if (live) {
    live_jobs_.insert(job.id);
  } else {
    live_jobs_.erase(job.id);
  }
  if (!live && !job::is_terminal(job.status)) {
    scheduler_->enqueue(job);
  } else {
    scheduler_->remove(job.id);
  }
  if (job::is_terminal(job.status)) {
    run_clocks_.erase(job.id);
    if (const auto found = active_.find(job.request->owner); found != active_.end()) {
      found->second.erase(job.id);
      if (found->second.empty()) {
        active_.erase(found);
      }
    }
  }
  if (job::is_terminal(job.status) && !job.request->body.empty()) {
    // The body was needed to start it; from now on the store has it for whoever asks.
    auto lean = std::make_shared<job::Request>(*job.request);
    lean->body.clear();
    lean->body.shrink_to_fit();
    if (!new_jobs_.contains(job.id)) {
      edit(job.id)->request = std::move(lean);
    }
  }
}

void Core::record_node_event(const NodeId& node, std::string kind, std::string actor,
                             std::string message, Now now) {
  job::Event event;
  event.at = now.wall;
  event.node = node.value();
  event.kind = std::move(kind);
  event.actor = std::move(actor);
  event.message = std::move(message);
  events_.push_back(std::move(event));
}

void Core::lose_node(const NodeId& node, bool confirmed, const std::string& reason, Now now) {
  const pool::Node* known = pool_.find(node);
  // What was told before may have become certain.
  if (known != nullptr && (known->health != pool::NodeHealth::kLost || known->reason != reason)) {
    pool_.set_health(node, pool::NodeHealth::kLost, reason);
    pool_changed_ = true;
    const auto silence = silence_.find(node);  // there is none for a cluster's node
    const bool by_engine = silence != silence_.end() && silence->second.down;
    record_node_event(node, "node.lost", by_engine ? "engine" : "control",
                      fmt::format("{} is lost: {}.", node.value(), reason), now);
  }
  std::set<JobId> hit;
  for (const RankKey& key : pool_.holders_on(node)) {
    hit.insert(key.job);
  }
  for (const JobId id : hit) {
    apply(id, job::NodeLost{node, confirmed, reason}, now);
  }
}

void Core::set_setting(const std::string& key, const std::string& value) {
  if (value.empty()) {
    settings_.erase(key);
  } else {
    settings_[key] = value;
  }
  changed_settings_[key] = value;
}

void Core::plan(Now now) {
  if (store_failure_) {
    return;
  }
  const Status room = store_.room();
  if (room.ok() != no_room_.empty()) {
    pool_changed_ = true;
    spdlog::log(room.ok() ? spdlog::level::info : spdlog::level::err, "{}",
                room.ok() ? "new jobs begin again" : room.error().message);
  }
  no_room_ = room.ok() ? std::string() : room.error().message;
  for (plan::Start& start : scheduler_->decide(pool_, held_by())) {
    pool_changed_ = true;
    job::Job* job = edit(start.job);
    QUAD_CHECK(job != nullptr && Epoch(job->epoch().value() + 1) == start.epoch,
               "the planner's epoch is stale");
    apply(start.job, job::Placed{std::move(start.holdings), start.shape, options_.strict_lease},
          now);
  }
}

bool Core::commit() {
  if (new_jobs_.empty() && changed_jobs_.empty() && events_.empty() && changed_settings_.empty()) {
    store_failure_.reset();
    return true;
  }
  store::Batch batch;
  for (const auto& [id, client_key] : new_jobs_) {
    batch.new_jobs.push_back({find(id), client_key});
  }
  for (const JobId id : changed_jobs_) {
    if (!new_jobs_.contains(id)) {
      batch.changed_jobs.push_back(find(id));
    }
  }
  Revision revision = last_revision_;
  for (job::Event& event : events_) {
    revision = Revision(revision.value() + 1);
    event.revision = revision;
  }
  batch.events = std::move(events_);
  batch.settings.assign(changed_settings_.begin(), changed_settings_.end());
  const Status status = store_.commit(batch);
  events_ = std::move(batch.events);
  if (!status.ok()) {
    if (!store_failure_) {
      spdlog::error("nothing can be recorded, so nothing new starts: {}", status.error().message);
    }
    store_failure_ = status.error();
    return false;
  }
  if (store_failure_) {
    spdlog::info("the store takes records again");
    store_failure_.reset();
  }
  last_revision_ = revision;
  return true;
}

void Core::publish_snapshot(Now now) {
  if (queue_ == nullptr || scheduler_->waiting() < kSmallQueue ||
      now.mono - queue_at_ >= kQueueAge) {
    queue_ = scheduler_->queue();
    queue_at_ = now.mono;
  }
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->revision = last_revision_;
  snapshot->at = now.wall;
  snapshot->chunks.assign(chunks_.begin(), chunks_.end());
  snapshot->pool = pool_;
  snapshot->queue = queue_;
  snapshot->breaker = held_by();
  for (const auto& [engine, away] : away_) {
    snapshot->away[engine] = away.reason;
  }
  if (shown_clusters_ == nullptr) {
    shown_clusters_ = std::make_shared<const Clusters>(clusters_);
  }
  snapshot->clusters = shown_clusters_;
  const std::lock_guard lock(published_mutex_);
  published_ = std::move(snapshot);
  if (!changed_settings_.empty() || published_settings_.empty()) {
    published_settings_.assign(settings_.begin(), settings_.end());
  }
}

void Core::publish(Now now) {
  const bool changed = !new_jobs_.empty() || !changed_jobs_.empty() || !events_.empty() ||
                       pool_changed_ || published_ == nullptr || !changed_settings_.empty();
  if (changed) {
    publish_snapshot(now);
  }
  const std::vector<job::Event> events = std::exchange(events_, {});
  new_jobs_.clear();
  changed_jobs_.clear();
  changed_settings_.clear();
  cloned_chunks_.clear();
  cloned_jobs_.clear();
  pool_changed_ = false;
  if (listener_ && changed) {
    listener_(snapshot(), events);
  }
}

const job::RankRecord* Core::find_rank(const RankKey& key) const {
  if (const job::Job* job = find(key.job); job != nullptr) {
    for (const job::Attempt& attempt : job->attempts) {
      const auto rank = static_cast<std::size_t>(key.rank.value());
      if (attempt.epoch == key.epoch && rank < attempt.ranks.size()) {
        return &attempt.ranks[rank];
      }
    }
  }
  return nullptr;
}

Millis Core::stop_grace_of(JobId id) const {
  const job::Job* job = find(id);
  return job == nullptr ? Millis(0) : job->request->stop_grace;
}

NodeId Core::node_of(const RankKey& key) const {
  const job::RankRecord* rank = find_rank(key);
  return rank == nullptr ? NodeId() : rank->holding.node;
}

void Core::execute(const job::Effect& effect, Now now) {
  const auto job_of = [this](const RankKey& key) -> std::shared_ptr<const job::Job> {
    return snapshot()->find(key.job);
  };
  if (const auto* start = std::get_if<job::StartRank>(&effect)) {
    const auto job = job_of(start->key);
    const job::Attempt* attempt = job->live();
    if (attempt == nullptr || attempt->epoch != start->key.epoch) {
      return;  // ended in the same step
    }
    const auto& rank = attempt->ranks[static_cast<std::size_t>(start->key.rank.value())];
    live_.connected(start->key, now);
    live_.disconnected(start->key);
    kill_at_[start->key] = now.mono + options_.start_timeout;
    engine_.start({start->key, rank.holding, attempt_token(start->key.job, start->key.epoch), job});
  } else if (const auto* order = std::get_if<job::SendOrder>(&effect)) {
    orders_.order(order->key, job_of(order->key));
  } else if (const auto* go = std::get_if<job::SendGo>(&effect)) {
    orders_.go(go->key, job_of(go->key));
  } else if (const auto* end_wait = std::get_if<job::EndFenceWait>(&effect)) {
    orders_.end_fence_wait(end_wait->key);
  } else if (const auto* stop = std::get_if<job::StopRank>(&effect)) {
    // Being told to stop once more, as by a cancel, gives no more time.
    const job::RankRecord* rank = find_rank(stop->key);
    const bool there = rank != nullptr && !rank->nonce.empty();
    // Who has not said hello cannot be asked.
    const MonoTime at = now.mono + (there ? stop->grace + kKillMargin : kKillUnborn);
    const auto known = kill_at_.try_emplace(stop->key, at).first;
    known->second = std::min(known->second, at);
    orders_.stop(stop->key, stop->grace, stop->reason);
  } else if (const auto* release = std::get_if<job::ReleaseRank>(&effect)) {
    kill_at_.erase(release->key);
    live_.erase(release->key);
    orders_.bye(release->key);
    engine_.forget(release->key, node_of(release->key));
  } else if (const auto* done = std::get_if<job::LetRunnerGo>(&effect)) {
    orders_.bye(done->key);
  } else if (const auto* dismiss = std::get_if<job::DismissRunner>(&effect)) {
    orders_.leave(dismiss->key, dismiss->nonce, dismiss->reason);
  }
}

}  // namespace quad::control
