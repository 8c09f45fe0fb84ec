// What an attempt needs in the cluster is made: what all belongs to, the attempt's Secret and what
// goes with it, and its pods.

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "engine/kubernetes/kubernetes_engine.h"
#include "engine/kubernetes/views/attempt_manifest.h"
#include "engine/kubernetes/views/pod_manifest.h"
#include "engine/kubernetes/views/pod_names.h"

namespace quad::kubernetes {

namespace {

/// Why a write failed, and whether to try again would be in vain.
Refusal refusal_of(const Error& failed, const ApiFailure& failure) {
  if (failure.http < 400 || (failure.message.empty() && failure.reason.empty())) {
    return {failed.message, false};  // no answer of the API server's own
  }
  return read_refusal(json::object{{"message", failure.message}, {"reason", failure.reason}});
}

std::string uid_of(const json::object& object) {
  const json::object* metadata = get_object(object, "metadata");
  return metadata == nullptr ? std::string() : std::string(get_string(*metadata, "uid"));
}

const ResourceType& type_of(const json::object& manifest) {
  const std::string_view kind = get_string(manifest, "kind");
  return kind == "Service" ? kServices : kind == "PersistentVolumeClaim" ? kClaims : kSecrets;
}

/// Fills in how the existing claims may be mounted: a gang cannot share each. What cannot be read
/// stays unknown; a claim that is not there is waited for.
void read_claims(ApiClient& client, const PodSettings& settings,
                 std::vector<PodRequest>& requests) {
  if (requests.size() < 2) {
    return;
  }
  for (std::size_t i = 0; i < requests.front().volumes.size(); ++i) {
    const VolumeRequest& volume = requests.front().volumes[i];
    if (volume.kind != VolumeRequest::Kind::kClaim) {
      continue;
    }
    const auto claim = client.get({kClaims, settings.namespace_name, volume.source, ""});
    const json::object* spec = claim.ok() ? get_object(*claim, "spec") : nullptr;
    const json::array* modes = spec == nullptr ? nullptr : get_array(*spec, "accessModes");
    if (modes == nullptr) {
      continue;
    }
    std::vector<std::string> read;
    for (const json::value& mode : *modes) {
      if (mode.is_string()) {
        read.emplace_back(mode.get_string());
      }
    }
    for (PodRequest& request : requests) {
      request.volumes[i].access_modes = read;
    }
  }
}

}  // namespace

void KubernetesEngine::make_root() {
  if (root_making_ || next_root_ > clock_.now().mono || !may_order()) {
    return;
  }
  root_making_ = true;
  writers_->give(Urgency::kPrepare, [this, settings = options_.settings,
                                     cordoned = cordoned()](ApiClient& client) mutable {
    auto made = client.create(kConfigMaps, settings.namespace_name, root_manifest(settings));
    if (made.ok()) {
      settings.root_uid = uid_of(made->object);
      const json::object budget = disruption_budget_manifest(settings, cordoned);
      const std::string name(get_string(budget.at("metadata").as_object(), "name"));
      const auto applied =
          client.apply({kDisruptionBudgets, settings.namespace_name, name, ""}, budget);
      if (!applied.ok()) {
        spdlog::warn("the budget that keeps ranks from being evicted cannot be made: {}",
                     applied.error().message);
      }
    }
    post(RootMade{
        made.ok() ? Result<std::string>(uid_of(made->object))
                  : error(made.error().code, refusal_of(made.error(), client.last_failure()).words),
        cordoned});
  });
}

void KubernetesEngine::take(const RootMade& made) {
  root_making_ = false;
  if (made.uid.ok()) {
    options_.settings.root_uid = made.uid.value();
    root_made_ = true;
    root_failures_ = 0;
    budgeted_ = made.cordoned;
    retry(Millis(0));
    return;
  }
  next_root_ = clock_.now().mono + pause_after(root_failures_++);
  for (auto& [key, attempt] : attempts_) {
    for (auto& [number, rank] : attempt.ranks) {
      if (rank.order) {
        note_wait(rank, made.uid.error().message);
      }
    }
  }
}

/// What each rank of the order's attempt asks for: they share what the attempt has.
Result<std::vector<PodRequest>> KubernetesEngine::describe_all(
    const engine::StartOrder& order) const {
  std::vector<PodRequest> requests;
  const auto& attempts = order.job->attempts;
  const auto attempt = std::find_if(attempts.begin(), attempts.end(), [&](const job::Attempt& one) {
    return one.epoch == order.key.epoch;
  });
  if (attempt == attempts.end()) {
    return error(ErrorCode::kInternal, "its attempt is not in its record");
  }
  for (std::size_t i = 0; i < attempt->ranks.size(); ++i) {
    engine::StartOrder one = order;
    one.key.rank = Rank(static_cast<std::int32_t>(i));
    one.holding = attempt->ranks[i].holding;
    QUAD_ASSIGN(PodRequest request, options_.describe(one));
    requests.push_back(std::move(request));
  }
  return requests;
}

void KubernetesEngine::make_attempt(const AttemptKey& key, Attempt& attempt) {
  const auto ordered = std::find_if(attempt.ranks.begin(), attempt.ranks.end(),
                                    [](const auto& one) { return one.second.order.has_value(); });
  const engine::StartOrder& order = *ordered->second.order;
  attempt.making = true;
  auto described = describe_all(order);
  if (!described.ok()) {
    post(AttemptMade{key, described.error(), true, nullptr});
    return;
  }
  std::vector<json::object> start_files;
  for (const PodRequest& request : *described) {
    start_files.push_back(start_file(request, options_.settings, order.token));
  }
  auto secret = secret_manifest(described->front(), options_.settings, start_files);
  if (!secret.ok()) {
    post(AttemptMade{key, secret.error(), true, nullptr});
    return;
  }
  writers_->give(Urgency::kPrepare, [this, key, requests = std::move(described).value(),
                                     settings = options_.settings,
                                     secret =
                                         std::move(secret).value()](ApiClient& client) mutable {
    read_claims(client, settings, requests);
    // Whatever the task asks for that cannot be is found before anything is made.
    if (const auto pod = pod_manifest(requests.front(), settings, ""); !pod.ok()) {
      return post(AttemptMade{key, pod.error(), true, nullptr});
    }
    const auto failed = [&](const Error& why) {
      Refusal refusal = refusal_of(why, client.last_failure());
      post(AttemptMade{key, error(why.code, std::move(refusal.words)), refusal.hopeless, nullptr});
    };
    const auto made = client.create(kSecrets, settings.namespace_name, secret);
    if (!made.ok()) {
      return failed(made.error());
    }
    const std::string uid = uid_of(made->object);
    for (const json::object& manifest : attempt_manifests(requests.front(), settings, uid)) {
      const ResourceType& type = type_of(manifest);
      // The Service of the job's ports outlives an attempt: each takes it over.
      const auto also =
          client.apply({type, settings.namespace_name,
                        std::string(get_string(manifest.at("metadata").as_object(), "name")), ""},
                       manifest);
      if (!also.ok()) {
        return failed(also.error());
      }
    }
    post(AttemptMade{key, uid, false,
                     std::make_shared<const std::vector<PodRequest>>(std::move(requests))});
  });
}

void KubernetesEngine::take(const AttemptMade& made) {
  const auto found = attempts_.find(made.attempt);
  if (found == attempts_.end()) {
    return;
  }
  Attempt& attempt = found->second;
  attempt.making = false;
  if (made.secret_uid.ok()) {
    attempt.secret_uid = made.secret_uid.value();
    attempt.requests = made.requests;
    attempt.failures = 0;
  } else {
    attempt.next_try = clock_.now().mono + pause_after(attempt.failures++);
    for (auto& [number, rank] : attempt.ranks) {
      const RankKey key{made.attempt.first, made.attempt.second, number};
      if (!rank.order) {
        continue;
      }
      if (made.hopeless) {
        fail_start(key, rank, made.secret_uid.error().message);
      } else {
        note_wait(rank, made.secret_uid.error().message);
      }
    }
  }
  advance(made.attempt, attempt);
}

/// It would be refused on any node: the task asks for what cannot be.
void KubernetesEngine::fail_start(const RankKey& key, RankState& rank, const std::string& reason) {
  rank.order.reset();
  rank.told_end = true;
  sink_(engine::StartFailed{key, reason, true});
}

void KubernetesEngine::make_pod(const RankKey& key, RankState& rank, const Attempt& attempt) {
  rank.making = true;
  PodRequest request = (*attempt.requests)[static_cast<std::size_t>(key.rank.value())];
  request.node = rank.node;  // as the cluster calls it
  rank.patience = request.provision_timeout;
  if (const auto node = nodes_.find(rank.node.value()); node != nodes_.end() && node->second.view) {
    request.gpu_resource = node->second.view->gpu_resource;
  }
  auto manifest = pod_manifest(request, options_.settings, attempt.secret_uid);
  if (!manifest.ok()) {
    post(PodMade{key, manifest.error(), true});
    return;
  }
  writers_->give(
      Urgency::kStart, [this, key, pod = std::move(manifest).value()](ApiClient& client) {
        const auto made = client.create(kPods, options_.settings.namespace_name, pod);
        if (made.ok()) {
          post(PodMade{key, Status(), false});
          return;
        }
        Refusal refusal = refusal_of(made.error(), client.last_failure());
        post(PodMade{key, error(made.error().code, std::move(refusal.words)), refusal.hopeless});
      });
}

void KubernetesEngine::take(const PodMade& made) {
  RankState* rank = find(made.key);
  if (rank == nullptr) {
    return;
  }
  const AttemptKey key{made.key.job, made.key.epoch};
  rank->making = false;
  if (made.status.ok()) {
    // The watch tells of it; should it have told of its removal already, it does not come again.
    rank->failures = 0;
    rank->made = rank->order.has_value();
    if (rank->order && !rank->to_kill) {
      rank->next_try = clock_.now().mono + kLongestPause;
    }
  } else if (made.hopeless) {
    fail_start(made.key, *rank, made.status.error().message);
  } else {
    rank->next_try = clock_.now().mono + pause_after(rank->failures++);
    note_wait(*rank, made.status.error().message);
    if (rank->to_kill) {
      rank->order.reset();
      tell_end(made.key, *rank, std::nullopt, "its pod was never made");
    }
  }
  advance(key, attempts_[key]);
}

}  // namespace quad::kubernetes
