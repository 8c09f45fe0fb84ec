// Nodes: what the watches tell of them, whether they are dead for certain, and whether they may be
// drained.

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "engine/kubernetes/kubernetes_engine.h"
#include "engine/kubernetes/views/node_match.h"

namespace quad::kubernetes {

namespace {

constexpr std::string_view kRemoved = "it was removed from the cluster";
/// A machine whose node was removed may still run, and its kubelet make the node anew.
constexpr Millis kSurelyOff{60'000};

/// Puts the taint on the node as it stands, or takes it off. The list of taints is written as a
/// whole, and others write to it too: the write holds only for the list that was read.
Status write_taint(ApiClient& client, const std::string& name, bool tainted) {
  const ObjectRef ref{kNodes, "", name, ""};
  QUAD_ASSIGN(const json::object node, client.get(ref));
  const json::object* metadata = get_object(node, "metadata");
  const json::object* spec = get_object(node, "spec");
  const json::array* before = spec == nullptr ? nullptr : get_array(*spec, "taints");
  json::array taints;
  bool there = false;
  for (std::size_t i = 0; before != nullptr && i < before->size(); ++i) {
    const json::object* one = (*before)[i].if_object();
    const bool is_it = one != nullptr && get_string(*one, "key") == kOutOfServiceTaint;
    there = there || is_it;
    if (!is_it || get_string(*one, "value") != kOwnTaintValue) {
      taints.push_back((*before)[i]);  // an administrator's stays
    }
  }
  if (there == tainted || metadata == nullptr) {
    return {};
  }
  if (tainted) {
    taints.push_back(json::object{
        {"key", kOutOfServiceTaint}, {"value", kOwnTaintValue}, {"effect", "NoExecute"}});
  }
  const json::array patch{
      json::object{{"op", "test"},
                   {"path", "/metadata/resourceVersion"},
                   {"value", get_string(*metadata, "resourceVersion")}},
      json::object{{"op", "add"}, {"path", "/spec/taints"}, {"value", std::move(taints)}}};
  const auto done = client.patch(ref, PatchType::kJson, patch);
  return done.ok() ? Status() : Status(done.error());
}

}  // namespace

void KubernetesEngine::take(Change<NodeView>& change) {
  Node& node = nodes_[change.name];
  const NodeId id(change.name);
  if (change.kind == ChangeKind::kRemoved) {
    const bool told = node.told.has_value();
    node.view.reset();
    node.told.reset();
    node.dead = false;
    if (!told) {
      return;
    }
    node.gone_at = clock_.now().mono;
    sink_(engine::NodeDown{id, std::string(kRemoved), false, true});
    return;
  }
  if (node.gone_at) {
    node.gone_at.reset();
    node.gone_for_good = false;
    sink_(engine::NodeBack{id});
  }
  node.view = std::move(change.value);
  node.changed = true;
  nodes_changed_ = true;
  watch_death(change.name, node);
}

void KubernetesEngine::take(const Change<LeaseView>& change) {
  if (change.kind == ChangeKind::kRemoved) {
    return;
  }
  Node& node = nodes_[change.value.node];
  const bool renewed = change.value.renewed != node.renewed;
  // Only a change is evidence: how old the lease is when it is first seen depends on two clocks.
  if (change.kind == ChangeKind::kChanged && renewed) {
    node.heard = clock_.now().mono;
    sink_(engine::NodeSeen{NodeId(change.value.node)});
  }
  node.renewed = change.value.renewed;
  // A kubelet renews its lease four times in its duration.
  const Millis beat(change.value.duration_seconds * 1000 / 4);
  if (beat != node.beat) {
    node.beat = beat;
    node.changed = true;
    nodes_changed_ = true;
  }
}

void KubernetesEngine::count_use(const std::string& node, const pool::Resources& uses, int sign) {
  if (node.empty() || uses == pool::Resources()) {
    return;
  }
  Node& known = nodes_[node];
  known.used_by_others.add(uses, sign);
  known.changed = true;
  nodes_changed_ = true;
}

void KubernetesEngine::tell_nodes() {
  // Before all pods are known, a node would look empty that is not.
  if (!pods_known_ || !nodes_changed_) {
    return;
  }
  nodes_changed_ = false;
  for (auto& [name, node] : nodes_) {
    if (!node.changed || !node.view) {
      continue;
    }
    node.changed = false;
    if (!is_ours(name, node)) {
      continue;
    }
    pool::NodeSpec spec = node_spec(*node.view, node.used_by_others);
    spec.engine = options_.name;
    spec.closed = closed(*node.view);
    spec.only_gpus = !node.view->gpu_resource.empty() && spec.closed.empty() &&
                     !node_refusal(usual_spec_, *node.view).empty();
    spec.beat = node.beat;
    if (node.told != spec) {
      node.told = spec;
      sink_(engine::NodeFound{std::move(spec)});
    }
  }
}

void KubernetesEngine::tell_certain_ends() {
  const MonoTime now = clock_.now().mono;
  if (!away_.reason.empty()) {
    return;
  }
  for (auto& [name, node] : nodes_) {
    if (node.gone_at && !node.gone_for_good && now - *node.gone_at > kSurelyOff) {
      node.gone_for_good = true;
      sink_(engine::NodeDown{NodeId(name), std::string(kRemoved), true, true});
    }
  }
  for (auto& [attempt, state] : attempts_) {
    for (auto& [number, rank] : state.ranks) {
      const auto node = nodes_.find(rank.node.value());
      if (rank.ended_by && node != nodes_.end() && node->second.heard > *rank.ended_by) {
        rank.ended_by.reset();
        sink_(engine::RunnerEnded{{attempt.first, attempt.second, number},
                                  std::nullopt,
                                  "its pod is gone, and its node lives"});
      }
    }
  }
}

bool KubernetesEngine::is_ours(const std::string& name, const Node& node) const {
  const auto& wanted = options_.settings.node_selector;
  const auto has = [&](const NamedText& label) {
    const auto found = node.view->labels.find(label.first);
    return found != node.view->labels.end() && found->second == label.second;
  };
  const auto is_there = [&](const auto& one) { return one.second.node.value() == name; };
  return node.told || std::all_of(wanted.begin(), wanted.end(), has) ||
         std::any_of(attempts_.begin(), attempts_.end(), [&](const auto& attempt) {
           return std::any_of(attempt.second.ranks.begin(), attempt.second.ranks.end(), is_there);
         });
}

std::string KubernetesEngine::closed(const NodeView& view) const {
  if (std::string trouble = node_trouble(view); !trouble.empty()) {
    return trouble;
  }
  json::object spec = usual_spec_;
  if (!view.gpu_resource.empty()) {
    // Pods with GPUs tolerate it; whoever needs none has no place there.
    json::value& tolerations = spec["tolerations"];
    (tolerations.is_array() ? tolerations.get_array() : tolerations.emplace_array())
        .push_back(json::object{
            {"key", view.gpu_resource}, {"operator", "Exists"}, {"effect", "NoSchedule"}});
  }
  return node_refusal(spec, view);
}

void KubernetesEngine::watch_death(const std::string& name, Node& node) {
  if (!is_ours(name, node)) {
    return;
  }
  const NodeId id(name);
  const std::string why = node_death(*node.view);
  if (!why.empty() && !node.dead) {
    node.dead = true;
    sink_(engine::NodeDown{id, why, true});
  } else if (node.dead && node.view->ready()) {
    node.dead = false;
    sink_(engine::NodeBack{id});
  }
  const bool own_taint =
      std::any_of(node.view->taints.begin(), node.view->taints.end(), [](const Taint& one) {
        return one.key == kOutOfServiceTaint && one.value == kOwnTaintValue;
      });
  // One that was put there by an earlier process is taken off all the same.
  if (own_taint ? node.view->ready() : node.dead && options_.out_of_service_taint) {
    set_taint(name, node, !own_taint);
  }
}

void KubernetesEngine::set_taint(const std::string& name, Node& node, bool tainted) {
  if (node.tainting || node.next_taint > clock_.now().mono || !may_order()) {
    return;
  }
  node.tainting = true;
  writers_->give(Urgency::kStop, [this, name, tainted](ApiClient& client) {
    post(NodeTainted{name, tainted, write_taint(client, name, tainted)});
  });
}

void KubernetesEngine::take(const NodeTainted& tainted) {
  Node& node = nodes_[tainted.node];
  node.tainting = false;
  if (tainted.status.ok()) {
    node.taint_failures = 0;
    node.next_taint = clock_.now().mono + kLongestPause;  // the watch tells of it before then
    return;
  }
  if (node.taint_failures == 0) {
    spdlog::warn("node {} cannot be {} out of service: {}", tainted.node,
                 tainted.tainted ? "tainted" : "relieved of its taint",
                 tainted.status.error().message);
  }
  node.next_taint = clock_.now().mono + pause_after(node.taint_failures++);
}

}  // namespace quad::kubernetes
