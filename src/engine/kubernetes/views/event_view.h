// engine/kubernetes/views/event_view.h
//
// Kubernetes' own words made plain: its Events, what kube-scheduler says of a pod that it cannot
// place, why an image cannot be pulled, and why the API server refused an object. For `quad why`
// and for verdicts. Pure.

#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/time.h"

namespace quad::kubernetes {

struct EventView {
  std::string kind;  ///< of what it is about: Pod, Node, PersistentVolumeClaim, …
  std::string namespace_name;
  std::string name;
  std::string uid;
  std::string reason;
  std::string message;
  bool warning = false;
  std::int64_t count = 1;
  std::optional<WallTime> last;
};

/// kInvalid if this is no Event about something.
Result<EventView> read_event(const json::object& event);

/// The event as one sentence without its full stop; empty if it says nothing that anybody waits for
/// (Scheduled, Created, Started, …). `node` is the one that its pod is pinned to, if it is known.
std::string event_in_words(const EventView& event, std::string_view node = {});

/// kube-scheduler's "0/3 nodes are available: …" for a pod that is pinned to `node`.
std::string scheduling_in_words(std::string_view message, std::string_view node);

/// Why an image could not be pulled.
struct PullFailure {
  std::string words;
  bool hopeless = false;  ///< to try again will not help: it is not there, or not for this user
};
PullFailure pull_failure(std::string_view image, std::string_view message);

/// Why the API server refused to make an object: a quota, an admission webhook or policy, Pod
/// Security, a missing permission, an invalid manifest.
struct Refusal {
  std::string words;
  /// To try again will not help: it is what was asked for that is wrong, not what the cluster or
  /// its administrator has at present.
  bool hopeless = false;
};
/// `status` is what it answered with.
Refusal read_refusal(const json::object& status);

/// A message of the kubelet or a plugin without what only its programmers need, at most 300 bytes.
std::string shortened(std::string_view message);

}  // namespace quad::kubernetes
