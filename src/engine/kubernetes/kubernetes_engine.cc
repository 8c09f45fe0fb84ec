// The threads, what comes in, and what the watches tell of pods and events. Ranks are in
// kubernetes_ranks.cc, what is made for them in kubernetes_objects.cc, nodes in
// kubernetes_nodes.cc.

#include "engine/kubernetes/kubernetes_engine.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "engine/kubernetes/check_view.h"
#include "engine/kubernetes/views/pod_manifest.h"
#include "engine/kubernetes/views/pod_names.h"

namespace quad::kubernetes {

namespace {

/// How long a watch may be broken before it is said that the cluster is not seen: a restart of the
/// API server's process is no news.
constexpr Millis kBrokenWatch{3'000};
/// With leases renewed each ten seconds and a node or more, something is always said sooner.
constexpr Millis kSilentLeases{15'000};
constexpr Millis kTick{250};
constexpr std::string_view kNotYet = "the API server has not answered yet";

std::optional<NodeView> project_node(const json::object& object) {
  auto view = read_node(object);
  if (!view.ok()) {
    spdlog::warn("a node cannot be read: {}", view.error().message);
    return std::nullopt;
  }
  // The kubelet's word that all is as it was: its lease says it sooner.
  for (Condition& condition : view->conditions) {
    condition.heartbeat.reset();
  }
  return std::move(view).value();
}

std::optional<LeaseView> project_lease(const json::object& object) {
  auto view = read_lease(object);
  return view.ok() ? std::optional(std::move(view).value()) : std::nullopt;
}

std::optional<PodSeen> project_pod(const json::object& object, const PodSettings& settings) {
  auto view = read_pod(object, settings.server);
  if (!view.ok()) {
    return std::nullopt;
  }
  if (view->namespace_name != settings.namespace_name) {
    view->rank.reset();  // whoever makes pods elsewhere gives them what labels they like
  }
  PodSeen seen;
  seen.node = view->node;
  if (!view->rank && !view->finished()) {
    seen.uses = view->requests;
    seen.uses.devices = view->devices;
  }
  if (view->rank) {
    const json::object* metadata = get_object(object, "metadata");
    seen.version = get_string(*metadata, "resourceVersion");
    seen.rank = std::make_shared<const PodView>(std::move(view).value());
  }
  return seen;
}

std::optional<EventSeen> project_event(const json::object& object) {
  const auto view = read_event(object);
  if (!view.ok() || !view->warning || view->kind != "Pod") {
    return std::nullopt;
  }
  std::string words = event_in_words(*view);
  if (words.empty()) {
    return std::nullopt;
  }
  return EventSeen{view->name, std::move(words)};
}

}  // namespace

KubernetesEngine::KubernetesEngine(KubernetesOptions options, std::shared_ptr<ApiServer> server,
                                   std::shared_ptr<net::Cancel> cancel, const Clock& clock)
    : options_(std::move(options)),
      server_(std::move(server)),
      cancel_(std::move(cancel)),
      clock_(clock),
      usual_spec_(usual_spec(options_.settings)) {}

KubernetesEngine::~KubernetesEngine() {
  end();
}

Result<std::vector<engine::Inventory>> KubernetesEngine::begin(engine::Sink sink) {
  sink_ = std::move(sink);
  away_ = {options_.name, std::string(kNotYet)};
  sink_(away_);
  lease_ = std::make_unique<ServerLease>(server_, options_, clock_,
                                         [this](const LeaseState& state) { post(state); });
  writers_ = std::make_unique<Writers>(server_, cancel_, options_.writers);

  const auto watch = [](const ResourceType& type, std::string name_space) {
    WatchOptions watched;
    watched.type = type;
    watched.name_space = std::move(name_space);
    return watched;
  };
  node_watch_ = std::make_unique<Watcher<NodeView>>(
      server_, watch(kNodes, ""), project_node,
      [this](Change<NodeView> change) { post(std::move(change)); });
  WatchOptions leases = watch(kLeases, std::string(kLeaseNamespace));
  leases.silence = kSilentLeases;
  lease_watch_ = std::make_unique<Watcher<LeaseView>>(
      server_, std::move(leases), project_lease,
      [this](Change<LeaseView> change) { post(std::move(change)); });
  pod_watch_ = std::make_unique<Watcher<PodSeen>>(
      server_, watch(kPods, ""),
      [this](const json::object& object) { return project_pod(object, options_.settings); },
      [this](Change<PodSeen> change) { post(std::move(change)); },
      [this](const WatchState& state) {
        if (state.synced) {
          post(AllPodsTold{});
        }
      });
  WatchOptions events = watch(kEvents, options_.settings.namespace_name);
  events.selection.fields = "type=Warning,involvedObject.kind=Pod";
  event_watch_ = std::make_unique<Watcher<EventSeen>>(
      server_, std::move(events), project_event,
      [this](Change<EventSeen> change) { post(std::move(change)); });
  thread_ = std::thread([this] { run(); });
  QUAD_TRY(lease_->start());
  QUAD_TRY(node_watch_->start());
  QUAD_TRY(lease_watch_->start());
  QUAD_TRY(pod_watch_->start());
  QUAD_TRY(event_watch_->start());
  return std::vector<engine::Inventory>();
}

std::string KubernetesEngine::engine_of(const NodeId& /*node*/) const {
  return options_.name;
}

void KubernetesEngine::end() {
  if (node_watch_ != nullptr) {
    node_watch_->stop();
    lease_watch_->stop();
    pod_watch_->stop();
    event_watch_->stop();
  }
  if (writers_ != nullptr) {
    writers_->end();
  }
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    arrived_.notify_one();
  }
  if (thread_.joinable()) {
    thread_.join();
  }
  if (lease_ != nullptr) {
    lease_->stop();  // last: from then on another may give orders
  }
}

void KubernetesEngine::post(Item item) {
  const std::lock_guard lock(mutex_);
  inbox_.push_back(std::move(item));
  if (inbox_.size() == 1) {
    arrived_.notify_one();
  }
}

void KubernetesEngine::start(const engine::StartOrder& order) {
  post(order);
}
void KubernetesEngine::kill(const RankKey& key, const NodeId& node, Millis grace) {
  post(Kill{key, node, grace});
}
void KubernetesEngine::forget(const RankKey& key, const NodeId& /*node*/) {
  post(Forget{key});
}

Status KubernetesEngine::node_action(const NodeId& node, const std::string& verb) {
  return error(ErrorCode::kUnsupported,
               fmt::format("{} is a machine of the cluster {}; '{}' is only for pretend nodes",
                           node.value(), options_.name, verb));
}

void KubernetesEngine::run() {
  for (;;) {
    std::deque<Item> items;
    {
      std::unique_lock lock(mutex_);
      arrived_.wait_for(lock, kTick, [this] { return ending_ || !inbox_.empty(); });
      if (ending_) {
        return;
      }
      items.swap(inbox_);
    }
    for (Item& item : items) {
      std::visit([this](auto& one) { take(one); }, item);
    }
    tell_nodes();
    const MonoTime now = clock_.now().mono;
    if (now - looked_at_ >= kTick) {
      watch_the_watchers();
      tell_certain_ends();
      retry(now - looked_at_);
      looked_at_ = now;
    }
  }
}

void KubernetesEngine::watch_the_watchers() {
  const MonoTime now = clock_.now().mono;
  std::string trouble;
  for (const WatchState& state :
       {node_watch_->state(), lease_watch_->state(), pod_watch_->state()}) {
    if (!state.synced && trouble.empty()) {
      trouble = state.trouble.empty() ? kNotYet : state.trouble;
    }
  }
  bool blind = !trouble.empty();
  if (!blind && !may_order()) {
    if (!lease_state_.other.empty()) {
      trouble = fmt::format("{}; this one waits until that has stopped",
                            in_other_hands(lease_state_.other, options_.settings.namespace_name));
    } else {
      blind = lease_state_.trouble.empty();  // the answer is on its way
      trouble = blind ? kNotYet : lease_state_.trouble;
    }
  }
  while (trouble.ends_with('.')) {
    trouble.pop_back();  // it becomes part of a sentence
  }
  if (trouble.empty()) {
    unsynced_since_.reset();
  } else if (!unsynced_since_) {
    unsynced_since_ = now;
  }
  const bool was = !away_.reason.empty();
  const bool away = unsynced_since_ && (was || now - *unsynced_since_ > kBrokenWatch);
  if (!away && !was) {
    return;
  }
  if (away && blind == away_.blind && trouble == away_.reason) {
    return;
  }
  away_ = {options_.name, away ? trouble : std::string(), blind};
  if (!away) {
    forget_pauses();
  }
  sink_(away_);
}

void KubernetesEngine::take(const LeaseState& lease) {
  if (!lease.other.empty() && lease_state_.other != lease.other) {
    spdlog::warn("{}: {}", options_.name,
                 in_other_hands(lease.other, options_.settings.namespace_name));
  } else if (lease.held && !lease_state_.other.empty()) {
    spdlog::info("{}: this server gives the orders now", options_.name);
  }
  const bool anew = lease.held && lease.term != lease_state_.term;
  lease_state_ = lease;
  if (!lease.held && lease.trouble.empty()) {
    // What waits to be written is another's to decide about; what is being written may still
    // arrive.
    synced_ = false;
    writers_->drop();
  }
  if (anew) {
    synced_ = false;
    begin_work();
  }
}

// Pods and events.

void KubernetesEngine::take(const AllPodsTold& /*told*/) {
  if (!pods_known_) {
    pods_known_ = true;
    nodes_changed_ = true;
    begin_work();
  }
}

void KubernetesEngine::begin_work() {
  if (synced_ || !pods_known_ || !lease_state_.held) {
    return;
  }
  synced_ = true;
  root_making_ = false;
  for (auto& [name, node] : nodes_) {
    node.tainting = false;
  }
  engine::Inventory inventory;
  inventory.engine = options_.name;
  inventory.complete = false;  // a pod can be removed while its containers run on
  for (auto& [attempt, state] : attempts_) {
    // A pod that went while the others were still being told of is not there; nor is one that was
    // ordered before another server gave the orders.
    std::erase_if(state.ranks, [](const auto& one) {
      const RankState& rank = one.second;
      return rank.pod == nullptr && !rank.ended_by && !rank.forgotten;
    });
    state.making = false;
    state.removing = false;
    for (auto& [rank, known] : state.ranks) {
      known.making = false;
      known.removing = false;
      if (known.pod == nullptr) {
        continue;
      }
      const PodState pod = state_of(*known.pod, false, false);
      const bool ended = pod.kind == PodState::Kind::kEnded;
      known.told_end = ended;
      if (ended && pod.end && !pod.end->confirmed) {
        known.ended_by = surely_ended(Millis(known.pod->grace_seconds * 1000));
      }
      inventory.existing.push_back(
          {{attempt.first, attempt.second, rank}, !ended, pod.end, known.node});
    }
  }
  std::erase_if(attempts_, [](const auto& one) { return one.second.ranks.empty(); });
  sink_(std::move(inventory));
  for (auto& [attempt, state] : attempts_) {
    for (auto& [rank, known] : state.ranks) {
      if (known.pod != nullptr) {
        judge({attempt.first, attempt.second, rank}, known, *known.pod, false);
      }
    }
  }
  for (engine::StartOrder& order : std::exchange(early_, {})) {
    take(order);
  }
  for (const Kill& kill : std::exchange(early_kills_, {})) {
    take(kill);
  }
  for (const Forget& forget : std::exchange(early_forgets_, {})) {
    take(forget);
  }
}

void KubernetesEngine::take(const Change<PodSeen>& change) {
  const bool removed = change.kind == ChangeKind::kRemoved;
  if (const auto before = others_.find(change.uid); before != others_.end()) {
    count_use(before->second.node, before->second.uses, -1);
    others_.erase(before);
  }
  if (change.value.rank == nullptr) {
    if (!removed) {
      count_use(change.value.node, change.value.uses, +1);
      others_.emplace(change.uid, OtherPod{change.value.node, change.value.uses});
    }
    return;
  }
  const PodView& pod = *change.value.rank;
  const RankKey key = *pod.rank;
  Attempt& attempt = attempts_[{key.job, key.epoch}];
  RankState& rank = attempt.ranks[key.rank];
  if (rank.order) {
    rank.order.reset();
    rank.next_try = {};  // the pause was for the start, and does not hold up a kill
  }
  rank.made = false;
  rank.node = NodeId(pod.wanted_node.empty() ? pod.node : pod.wanted_node);
  rank.pod = removed ? nullptr : change.value.rank;
  if (synced_) {
    judge(key, rank, pod, removed);
    advance({key.job, key.epoch}, attempt);
    drop_if_gone({key.job, key.epoch});
  }
}

void KubernetesEngine::take(const Change<EventSeen>& change) {
  if (!synced_ || change.kind == ChangeKind::kRemoved) {
    return;
  }
  // Few ranks are starting at a time, and events are rare.
  for (auto& [attempt, state] : attempts_) {
    for (auto& [rank, known] : state.ranks) {
      const RankKey key{attempt.first, attempt.second, rank};
      if (change.value.about != pod_name(options_.settings.server, key) || known.pod == nullptr) {
        continue;
      }
      if (state_of(*known.pod, known.to_kill, false).kind == PodState::Kind::kStarting) {
        note_wait(known, change.value.words);
      }
      return;
    }
  }
}

Result<std::unique_ptr<engine::Engine>> make_kubernetes(KubernetesOptions options,
                                                        const Clock& clock) {
  QUAD_ASSIGN(auto server, ApiServer::create(options.access, options.api, clock));
  QUAD_ASSIGN(auto cancel, net::Cancel::create());
  return std::unique_ptr<engine::Engine>(std::make_unique<KubernetesEngine>(
      std::move(options), std::move(server), std::move(cancel), clock));
}

}  // namespace quad::kubernetes
