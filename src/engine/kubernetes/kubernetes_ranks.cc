// From an order to a pod, and from a pod's end to its removal.

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "engine/kubernetes/kubernetes_engine.h"
#include "engine/kubernetes/views/pod_manifest.h"
#include "engine/kubernetes/views/pod_names.h"

namespace quad::kubernetes {

namespace {

/// For the runner to deliver the end, where there is still a kubelet that asks it to go.
constexpr std::int64_t kKillGrace = 1;  // seconds
constexpr Millis kFirstPause{500};
/// How long a reason for a wait stands before it is told.
constexpr Millis kPatience{2'000};
/// Of so many attempts it is known that they were removed, so that this is not asked for again.
constexpr std::size_t kErasedKept = 1'000;
/// That it still waits: a start has no limit of time as long as its engine tells so.
constexpr Millis kReminder{30'000};
/// A longer pause between two looks means that this process itself was stopped.
constexpr Millis kMostPassed{1'000};

/// Of a pod that is not there, and of which no kubelet has told.
std::optional<job::RankEnd> doubtful_end() {
  job::RankEnd end;
  end.how = job::RankEnd::How::kGone;
  end.confirmed = false;
  end.detail = "its pod is not there, without its node telling that it ended";
  return end;
}

}  // namespace

KubernetesEngine::RankState* KubernetesEngine::find(const RankKey& key) {
  const auto attempt = attempts_.find({key.job, key.epoch});
  if (attempt == attempts_.end()) {
    return nullptr;
  }
  const auto rank = attempt->second.ranks.find(key.rank);
  return rank == attempt->second.ranks.end() ? nullptr : &rank->second;
}

Millis KubernetesEngine::pause_after(int failures) const {
  return std::min(kLongestPause, kFirstPause * (1 << std::min(failures, 6)));
}

// Orders.

void KubernetesEngine::take(engine::StartOrder& order) {
  if (!synced_) {
    early_.push_back(std::move(order));
    return;
  }
  const AttemptKey key{order.key.job, order.key.epoch};
  Attempt& attempt = attempts_[key];
  RankState& rank = attempt.ranks[order.key.rank];
  if (rank.pod != nullptr || rank.order || rank.told_end) {
    return;  // given before
  }
  rank.node = order.holding.node;
  rank.order = std::move(order);
  advance(key, attempt);
}

void KubernetesEngine::take(const Kill& kill) {
  if (!synced_) {
    early_kills_.push_back(kill);
    return;
  }
  RankState* rank = find(kill.key);
  if (rank == nullptr) {
    // Of an earlier process of this server: its pod went when nobody looked.
    rank = &attempts_[{kill.key.job, kill.key.epoch}].ranks[kill.key.rank];
    rank->node = kill.node;
    rank->ended_by = surely_ended(kill.grace + kDeliveryMargin);
    // Nor may its node be there any more.
    if (Node& node = nodes_[kill.node.value()]; !node.view && !node.gone_at) {
      node.gone_at = clock_.now().mono;
    }
    tell_end(kill.key, *rank, doubtful_end(), {});
  } else if (rank->pod == nullptr && !rank->making && !rank->made) {
    // Either there never was one, or its end has been told.
    rank->order.reset();
    rank->told_end = false;
    tell_end(kill.key, *rank, rank->ended_by ? doubtful_end() : std::nullopt,
             "its pod is not there");
  } else if (rank->told_end) {
    rank->told_end = false;  // whoever asks has not heard
    if (rank->pod != nullptr) {
      judge(kill.key, *rank, *rank->pod, false);
    }
  }
  rank->to_kill = true;
  advance({kill.key.job, kill.key.epoch}, attempts_[{kill.key.job, kill.key.epoch}]);
}

void KubernetesEngine::take(const Forget& forget) {
  if (!synced_) {
    early_forgets_.push_back(forget);
    return;
  }
  const AttemptKey key{forget.key.job, forget.key.epoch};
  if (find(forget.key) == nullptr &&
      std::find(erased_.begin(), erased_.end(), key) != erased_.end()) {
    return;
  }
  // A rank that is not known had a pod that went while this server was away: its attempt's Secret
  // may still be there.
  Attempt& attempt = attempts_[key];
  RankState& rank = attempt.ranks[forget.key.rank];
  rank.forgotten = true;
  rank.order.reset();
  advance(key, attempt);
}

// What follows.

/// Gives whatever writes an attempt is ready for.
void KubernetesEngine::advance(const AttemptKey& key, Attempt& attempt) {
  if (!may_order()) {
    return;  // retry() comes back to it
  }
  const MonoTime now = clock_.now().mono;
  const bool all_forgotten = std::all_of(attempt.ranks.begin(), attempt.ranks.end(),
                                         [](const auto& one) { return one.second.forgotten; });
  const bool busy = attempt.making || attempt.removing ||
                    std::any_of(attempt.ranks.begin(), attempt.ranks.end(), [](const auto& one) {
                      return one.second.making || one.second.removing;
                    });
  for (auto& [number, rank] : attempt.ranks) {
    // No kubelet will say that it has ended; on a node that may live, it is left to that.
    const auto node = nodes_.find(rank.node.value());
    if (rank.forgotten && rank.pod != nullptr && !rank.pod->finished() && !rank.removing &&
        rank.next_try <= now && node != nodes_.end() && node->second.dead) {
      remove_pod({key.first, key.second, number}, rank, 0);
    }
  }
  if (all_forgotten) {
    if (!busy && !attempt.removed && attempt.next_try <= now) {
      remove_attempt(key, attempt);
    }
    return;
  }
  const bool wanted = std::any_of(attempt.ranks.begin(), attempt.ranks.end(), [](const auto& one) {
    return one.second.order.has_value() && !one.second.to_kill;
  });
  if (!wanted) {
    attempt.requests.reset();
  } else if (attempt.requests == nullptr) {
    if (!root_made_) {
      make_root();
    } else if (!attempt.making && attempt.next_try <= now) {
      make_attempt(key, attempt);
    }
    return;
  }
  for (auto& [number, rank] : attempt.ranks) {
    const RankKey rank_key{key.first, key.second, number};
    if (rank.making || rank.removing || rank.next_try > now) {
      continue;
    }
    const bool lives = rank.pod != nullptr && !rank.pod->deleted && !rank.pod->finished();
    if (rank.to_kill && (lives || (rank.pod == nullptr && rank.made))) {
      remove_pod(rank_key, rank, kKillGrace);
    } else if (rank.order && !rank.to_kill && rank.pod == nullptr) {
      make_pod(rank_key, rank, attempt);
    }
  }
}

void KubernetesEngine::retry(Millis passed) {
  if (!synced_) {
    return;
  }
  // What is not seen is held against nobody.
  passed = away_.reason.empty() ? std::min(passed, kMostPassed) : Millis(0);
  std::vector<AttemptKey> keys;
  for (const auto& [key, attempt] : attempts_) {
    keys.push_back(key);
  }
  const MonoTime now = clock_.now().mono;
  if (!keys.empty() && (!root_made_ || budgeted_ != cordoned())) {
    make_root();
  }
  for (const AttemptKey& key : keys) {
    if (const auto found = attempts_.find(key); found != attempts_.end()) {
      for (auto& [number, rank] : found->second.ranks) {
        tell_waits({key.first, key.second, number}, rank, now);
        watch_start({key.first, key.second, number}, rank, passed);
      }
      advance(key, found->second);
    }
  }
  for (auto& [name, node] : nodes_) {
    if (node.view) {
      watch_death(name, node);
    }
  }
}

void KubernetesEngine::watch_start(const RankKey& key, RankState& rank, Millis passed) {
  const bool starts = rank.order || (rank.pod != nullptr && !rank.started && !rank.pod->finished());
  if (!starts || rank.told_end || rank.to_kill || rank.forgotten) {
    return;
  }
  rank.waited += passed;
  const std::optional<Millis> patience = rank.patience ? rank.patience : options_.provision_timeout;
  if (!patience || *patience < Millis(0) || rank.waited < *patience) {
    return;
  }
  rank.order.reset();
  rank.to_kill = true;
  rank.told_end = true;
  sink_(engine::StartFailed{
      key, fmt::format("it had not started after {} (provision_timeout){}{}",
                       format_duration(*patience), rank.reason.empty() ? "" : ": ", rank.reason)});
}

std::set<std::string> KubernetesEngine::cordoned() const {
  std::set<std::string> names;
  for (const auto& [name, node] : nodes_) {
    if (node.view && node.view->unschedulable) {
      names.insert(name);
    }
  }
  return names;
}

void KubernetesEngine::forget_pauses() {
  next_root_ = {};
  for (auto& [key, attempt] : attempts_) {
    attempt.next_try = {};
    for (auto& [number, rank] : attempt.ranks) {
      rank.next_try = {};
    }
  }
}

void KubernetesEngine::remove_pod(const RankKey& key, RankState& rank, std::int64_t grace) {
  rank.removing = true;
  writers_->give(Urgency::kStop, [this, key, grace, uid = rank.pod ? rank.pod->uid : std::string()](
                                     ApiClient& client) {
    RemoveOptions remove;
    remove.grace_seconds = grace;
    remove.uid = uid;
    post(PodRemoved{key, client.remove({kPods, options_.settings.namespace_name,
                                        pod_name(options_.settings.server, key), ""},
                                       remove)});
  });
}

void KubernetesEngine::take(const PodRemoved& removed) {
  RankState* rank = find(removed.key);
  if (rank == nullptr) {
    return;
  }
  rank->removing = false;
  if (rank->pod == nullptr && removed.removal.ok() && removed.removal.value() == Removal::kGone) {
    rank->made = false;  // it came and went without having been seen
    rank->order.reset();
    tell_end(removed.key, *rank, std::nullopt, "its pod is not there");
  }
  // What it says is told by the watch as well; until then it is not asked for again.
  rank->next_try =
      clock_.now().mono + (removed.removal.ok() ? kLongestPause : pause_after(rank->failures++));
}

/// Removes the attempt's Secret, and with it, by the cluster's garbage collection, all the rest.
void KubernetesEngine::remove_attempt(const AttemptKey& key, Attempt& attempt) {
  attempt.removing = true;
  const std::string name = attempt_name(options_.settings.server, key.first, key.second);
  writers_->give(Urgency::kClear, [this, key, name](ApiClient& client) {
    const auto removal = client.remove({kSecrets, options_.settings.namespace_name, name, ""});
    post(AttemptRemoved{key, removal.ok() ? Status() : Status(removal.error())});
  });
}

void KubernetesEngine::take(const AttemptRemoved& removed) {
  const auto found = attempts_.find(removed.attempt);
  if (found == attempts_.end()) {
    return;
  }
  Attempt& attempt = found->second;
  attempt.removing = false;
  if (removed.status.ok()) {
    attempt.removed = true;
    drop_if_gone(removed.attempt);
  } else {
    attempt.next_try = clock_.now().mono + pause_after(attempt.failures++);
  }
}

/// Nothing is kept of an attempt that is removed, pods and all.
void KubernetesEngine::drop_if_gone(const AttemptKey& key) {
  const auto found = attempts_.find(key);
  if (found != attempts_.end() && found->second.removed &&
      std::all_of(found->second.ranks.begin(), found->second.ranks.end(),
                  [](const auto& one) { return one.second.pod == nullptr; })) {
    attempts_.erase(found);
    erased_.push_back(key);
    if (erased_.size() > kErasedKept) {
      erased_.pop_front();
    }
  }
}

// What is told.

void KubernetesEngine::judge(const RankKey& key, RankState& rank, const PodView& pod, bool gone) {
  const PodState state = state_of(pod, rank.to_kill || rank.forgotten, gone);
  if (state.taken && !rank.told_taken) {
    rank.told_taken = true;
    sink_(engine::RankTaken{key, *state.taken});
  }
  rank.started = rank.started || state.kind != PodState::Kind::kStarting;
  if (state.kind == PodState::Kind::kEnded || (state.hopeless && state.end)) {
    if (state.hopeless) {
      rank.to_kill = true;  // it would go on trying
    }
    if (!rank.told_end && state.end && !state.end->confirmed) {
      rank.ended_by = surely_ended(Millis(pod.grace_seconds * 1000));
    }
    tell_end(key, rank, state.end, state.words);
  } else {
    note_wait(rank, state.kind == PodState::Kind::kStarting ? state.words : std::string());
  }
}

void KubernetesEngine::tell_end(const RankKey& key, RankState& rank,
                                std::optional<job::RankEnd> end, std::string detail) {
  if (rank.told_end) {
    return;
  }
  rank.told_end = true;
  sink_(engine::RunnerEnded{key, std::move(end), std::move(detail)});
}

MonoTime KubernetesEngine::surely_ended(Millis grace) const {
  constexpr Millis kToNoticeAndCleanUp{15'000};
  return clock_.now().mono + grace + kToNoticeAndCleanUp;
}

void KubernetesEngine::note_wait(RankState& rank, const std::string& reason) {
  if (rank.reason != reason) {
    rank.reason = reason;
    rank.reason_since = clock_.now().mono;
  }
}

void KubernetesEngine::tell_waits(const RankKey& key, RankState& rank, MonoTime now) {
  if (rank.reason.empty() || rank.told_end || now - rank.reason_since < kPatience ||
      (rank.reason == rank.told && now - rank.told_at < kReminder)) {
    return;
  }
  rank.told = rank.reason;
  rank.told_at = now;
  sink_(engine::StartWaits{key, fmt::format("Rank {} on {} has not started yet: {}.",
                                            key.rank.value(), rank.node.value(), rank.reason)});
}

}  // namespace quad::kubernetes
