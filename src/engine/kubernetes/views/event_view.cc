#include "engine/kubernetes/views/event_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/text.h"
#include "engine/kubernetes/views/node_view.h"

namespace quad::kubernetes {

namespace {

constexpr std::size_t kLongest = 300;

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

template <typename... Parts>
bool has_any(std::string_view text, Parts... parts) {
  return (has(text, parts) || ...);
}

/// What stands between the first `open` and the next `close` after it; empty if nothing does.
std::string_view between(std::string_view text, std::string_view open, std::string_view close) {
  const std::size_t from = text.find(open);
  if (from == std::string_view::npos) {
    return {};
  }
  text.remove_prefix(from + open.size());
  const std::size_t to = text.find(close);
  return to == std::string_view::npos ? std::string_view() : text.substr(0, to);
}

std::string resource_in_words(std::string_view resource) {
  return resource == "cpu"                 ? "CPUs"
         : resource == "memory"            ? "memory"
         : resource == "ephemeral-storage" ? "disk space"
         : is_whole_gpu(resource)          ? "GPUs"
         : resource == "pods"              ? "room for pods"
                                           : std::string(resource);
}

/// One of kube-scheduler's reasons, without the number of nodes before it; empty if it is about
/// other nodes than the one that the pod is pinned to.
std::string reason_in_words(std::string_view reason, std::string_view node) {
  constexpr std::string_view kInsufficient = "Insufficient ";
  if (reason.starts_with(kInsufficient)) {
    return fmt::format("{} has not enough {} free", node,
                       resource_in_words(reason.substr(kInsufficient.size())));
  }
  if (has_any(reason, "Pod's node affinity/selector", "scheduler-enforced node affinity",
              "the requested node name", "didn't satisfy plugin")) {
    return {};
  }
  if (const std::string_view taint = between(reason, "taint {", "}"); !taint.empty()) {
    const std::string_view key = trim(taint.substr(0, taint.find(':')));
    if (key == "node.kubernetes.io/unreachable" || key == "node.kubernetes.io/not-ready") {
      return fmt::format("{} is not ready", node);
    }
    return fmt::format("{} has the taint {}, which the job does not tolerate", node, key);
  }
  if (has(reason, "untolerated taint")) {  // from Kubernetes 1.34 on without its name
    return fmt::format("{} is not ready, or has a taint that the job does not tolerate", node);
  }
  if (has(reason, "unschedulable")) {
    return fmt::format("{} is cordoned", node);
  }
  if (has(reason, "Too many pods")) {
    return fmt::format("{} has as many pods as it takes", node);
  }
  if (has(reason, "ReadWriteOncePod")) {
    return "a volume of the job is in use by another pod, and may be by one only";
  }
  if (has_any(reason, "volume node affinity conflict", "PersistentVolume's node affinity",
              "available volume zone", "persistent volumes to bind", "non-existent pv")) {
    return fmt::format("a volume of the job is not to be had on {}", node);
  }
  if (has(reason, "exceed max volume count")) {
    return fmt::format("{} has as many volumes as it takes", node);
  }
  if (has(reason, "enough free storage")) {
    return fmt::format("{} has not enough room for a volume of the job", node);
  }
  if (has(reason, "free ports")) {
    return fmt::format("a port of the host {} is in use", node);
  }
  if (has(reason, "unbound immediate PersistentVolumeClaims")) {
    return "a volume of the job is not provided yet";
  }
  return std::string(reason);
}

struct Words {
  std::string_view reason;
  std::string_view words;  ///< what to say before the message
};

// Events whose message is told with some words before it.
constexpr std::array kWords = {
    Words{"FailedAttachVolume", "a volume cannot be attached"},
    Words{"FailedMapVolume", "a volume cannot be attached"},
    Words{"FailedMount", "a volume cannot be mounted"},
    Words{"FailedCreatePodSandBox", "the node cannot set the pod up"},
    Words{"NetworkNotReady", "the node's pod network is not ready"},
    Words{"FailedBinding", "a volume cannot be had"},
    Words{"ProvisioningFailed", "a volume cannot be provided"},
    Words{"ProvisioningCleanupFailed", "a volume cannot be cleared away"},
    Words{"VolumeResizeFailed", "a volume cannot be made larger"},
    Words{"Evicted", "evicted by its node"},
    Words{"Preempted", "preempted by kube-scheduler"},
    Words{"Preempting", "stopped by its node for a more important pod"},
    Words{"FailedCreate", "cannot be made"},
    Words{"UnexpectedAdmissionError", "refused by its node"},
    Words{"TopologyAffinityError", "refused by its node"},
    Words{"NodeAffinity", "refused by its node"},
    Words{"FailedPostStartHook", "its postStart hook failed"},
    Words{"FailedPreStopHook", "its preStop hook failed"},
    Words{"FailedKillPod", "the node cannot stop it"},
    Words{"ExceededGracePeriod", "it did not stop in time"},
    Words{"DeadlineExceeded", "it ran past its activeDeadlineSeconds"},
    Words{"Unhealthy", "a probe failed"},
    Words{"FreeDiskSpaceFailed", "the node's disk is full"},
    Words{"ImageGCFailed", "the node's disk is full"},
    Words{"SystemOOM", "the node ran out of memory"},
    Words{"OOMKilling", "the node ran out of memory"},
    Words{"NodeNotReady", "the node is not ready"},
    Words{"Rebooted", "the node was rebooted"},
    Words{"TaintManagerEviction", "taken off its node by a taint"},
    Words{"Failed", "a container cannot be started"},
    Words{"InspectFailed", "the image cannot be used"},
    Words{"ErrImageNeverPull", "the image is not on the node, and may not be pulled"},
    Words{"InvalidDiskCapacity", "the node cannot tell the size of its disk"},
};

/// What is known to be meant by a message of the kubelet or of a plugin.
std::string known_cause(std::string_view message) {
  if (const auto claim = between(message, "persistentvolumeclaim \"", "\" not found");
      !claim.empty()) {
    return fmt::format("there is no PersistentVolumeClaim '{}'", claim);
  }
  if (const auto name = between(message, "secret \"", "\" not found"); !name.empty()) {
    return fmt::format("there is no Secret '{}'", name);
  }
  if (const auto name = between(message, "configmap \"", "\" not found"); !name.empty()) {
    return fmt::format("there is no ConfigMap '{}'", name);
  }
  if (const auto name = between(message, "storageclass.storage.k8s.io \"", "\" not found");
      !name.empty()) {
    return fmt::format("there is no StorageClass '{}'", name);
  }
  if (has(message, "Multi-Attach error")) {
    return "a volume that only one node can have at a time is still attached to another";
  }
  if (const auto name = between(message, "no runtime for \"", "\" is configured"); !name.empty()) {
    return fmt::format("the node has no container runtime '{}'", name);
  }
  if (has(message, "failed calling webhook")) {
    return fmt::format("the cluster's admission webhook {} does not answer",
                       between(message, "webhook ", ":"));
  }
  if (has(message, "hostPath type check failed")) {
    return "the folder is not there on this node";
  }
  if (has(message, "container has runAsNonRoot and image will run as root")) {
    return "the image runs as root, which is not permitted here";
  }
  if (has(message, "no space left on device")) {
    return "the node's disk is full";
  }
  return {};
}

std::string pull_words(std::string_view message) {
  std::string_view image = between(message, "image \"", "\"");
  return pull_failure(image, message).words;
}

}  // namespace

Result<EventView> read_event(const json::object& object) {
  // core/v1 says involvedObject, events.k8s.io/v1 regarding.
  const json::object* about = get_object(object, "involvedObject");
  if (about == nullptr) {
    about = get_object(object, "regarding");
  }
  if (about == nullptr || get_string(*about, "name").empty()) {
    return error(ErrorCode::kInvalid, "This is no Event about anything");
  }
  EventView event;
  event.kind = get_string(*about, "kind");
  event.namespace_name = get_string(*about, "namespace");
  event.name = get_string(*about, "name");
  event.uid = get_string(*about, "uid");
  event.reason = get_string(object, "reason");
  event.message = get_string(object, object.contains("message") ? "message" : "note");
  event.warning = get_string(object, "type") == "Warning";
  event.count = std::max<std::int64_t>(1, get_int(object, "count", 1));
  event.last = get_time(object, "lastTimestamp");
  if (!event.last) {
    event.last = get_time(object, "eventTime");
  }
  if (const json::object* series = get_object(object, "series")) {
    event.count = std::max(event.count, get_int(*series, "count"));
    if (const auto last = get_time(*series, "lastObservedTime")) {
      event.last = last;
    }
  }
  return event;
}

std::string shortened(std::string_view message) {
  std::string text(trim(message));
  // "rpc error: code = Unknown desc = " before what was really said, sometimes several times.
  constexpr std::string_view kRpc = "rpc error: code = ";
  constexpr std::string_view kSaid = " desc = ";
  for (std::size_t at = text.find(kRpc); at != std::string::npos; at = text.find(kRpc)) {
    const std::size_t said = text.find(kSaid, at);
    if (said == std::string::npos) {
      break;
    }
    text.erase(at, said + kSaid.size() - at);
  }
  std::replace(text.begin(), text.end(), '\n', ' ');
  if (text.size() > kLongest) {
    std::size_t end = kLongest - 3;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) {
      --end;  // not within a character
    }
    text = text.substr(0, end) + "…";
  }
  while (text.ends_with('.') || text.ends_with(' ')) {
    text.pop_back();
  }
  return text;
}

std::string scheduling_in_words(std::string_view message, std::string_view pinned) {
  const std::string node = fmt::format("node {}", pinned);
  if (std::string known = known_cause(message); !known.empty()) {
    return known;
  }
  const std::size_t reasons = message.find("nodes are available: ");
  if (reasons == std::string_view::npos || pinned.empty()) {
    return shortened(message);
  }
  std::string_view list =
      message.substr(reasons + std::string_view("nodes are available: ").size());
  list = list.substr(0, list.find(" preemption: "));
  std::vector<std::string> found;
  // "1 Insufficient cpu, 2 node(s) had untolerated taint {a: b}, …"
  while (!list.empty()) {
    std::size_t end = std::string_view::npos;
    for (std::size_t at = list.find(", "); at != std::string_view::npos;
         at = list.find(", ", at + 2)) {
      if (at + 2 < list.size() && list[at + 2] >= '0' && list[at + 2] <= '9') {
        end = at;
        break;
      }
    }
    std::string_view reason = trim(list.substr(0, end));
    list = end == std::string_view::npos ? std::string_view() : list.substr(end + 2);
    reason = reason.substr(0, reason.find(". "));  // what follows is about preemption
    while (reason.ends_with('.')) {
      reason.remove_suffix(1);
    }
    const std::size_t word = reason.find_first_not_of("0123456789 ");
    reason = word == std::string_view::npos ? std::string_view() : reason.substr(word);
    if (std::string words = reason_in_words(reason, node); !words.empty()) {
      found.push_back(std::move(words));
    }
  }
  if (found.empty()) {
    // Every node was passed over for not being the one that the pod is pinned to.
    return fmt::format("{} is not there, or lacks what the job's node selector asks for", node);
  }
  return join_words({found.begin(), found.end()});
}

PullFailure pull_failure(std::string_view image, std::string_view message) {
  const std::string what = image.empty() ? "the image" : fmt::format("image '{}'", image);
  const bool bare = message.empty() || (message.starts_with("Back-off pulling image") &&
                                        !has(message, "ErrImagePull:"));
  if (bare) {
    return {fmt::format("{} cannot be pulled; Kubernetes tries again", what), false};
  }
  if (has_any(message, "toomanyrequests", "429 Too Many Requests", "rate limit")) {
    return {fmt::format(
                "{} cannot be pulled: its registry limits how often; Kubernetes tries again", what),
            false};
  }
  if (has_any(message, "does not exist or may require authorization", "insufficient_scope",
              "pull access denied")) {
    return {fmt::format("{} does not exist, or its registry wants a login; check the name, or give "
                        "SKYPILOT_DOCKER_USERNAME, _PASSWORD and _SERVER",
                        what),
            true};
  }
  if (has_any(message, "401 Unauthorized", "403 Forbidden", "unauthorized",
              "authentication required", "no basic auth credentials", "authorization failed")) {
    return {fmt::format("{} cannot be pulled: its registry refuses the login; check "
                        "SKYPILOT_DOCKER_USERNAME, _PASSWORD and _SERVER",
                        what),
            true};
  }
  if (has_any(message, "manifest unknown", ": not found", "404 Not Found",
              "no match for platform in manifest")) {
    return {has(message, "no match for platform")
                ? fmt::format("{} is not made for this kind of processor", what)
                : fmt::format("{} does not exist; check its name and tag", what),
            true};
  }
  if (has_any(message, "no such host", "i/o timeout", "connection refused",
              "network is unreachable", "TLS handshake timeout", "context deadline exceeded",
              "x509:", "no route to host")) {
    return {fmt::format("{} cannot be pulled: its registry cannot be reached from the node ({}); "
                        "Kubernetes tries again",
                        what,
                        has(message, "no such host") ? "its name is not known"
                        : has(message, "x509:")      ? "its certificate is not trusted"
                                                     : "no connection"),
            false};
  }
  if (has(message, "no space left on device")) {
    return {fmt::format("{} cannot be pulled: the node's disk is full", what), false};
  }
  return {fmt::format("{} cannot be pulled: {}", what, shortened(message)), false};
}

std::string event_in_words(const EventView& event, std::string_view node) {
  if (event.reason == "FailedScheduling") {
    return "kube-scheduler cannot place it: " + scheduling_in_words(event.message, node);
  }
  if (event.reason == "Pulling") {
    return fmt::format("pulls the image {}", between(event.message, "image \"", "\""));
  }
  if (has_any(event.message, "Failed to pull image", "Back-off pulling image")) {
    return pull_words(event.message);
  }
  if (event.reason == "Failed" && has_any(event.message, "ErrImagePull", "ImagePullBackOff")) {
    return {};  // the event before it said more
  }
  if (event.reason == "BackOff") {
    return "a container of the pod fails again and again";
  }
  if (event.reason.starts_with("OutOf")) {
    return fmt::format("refused by its node: not enough {} left there",
                       resource_in_words(std::string_view(event.reason).substr(5)));
  }
  for (const Words& one : kWords) {
    if (event.reason == one.reason) {
      const std::string known = known_cause(event.message);
      const std::string detail = known.empty() ? shortened(event.message) : known;
      return detail.empty() ? std::string(one.words) : fmt::format("{}: {}", one.words, detail);
    }
  }
  return event.warning ? fmt::format("{}: {}", event.reason, shortened(event.message))
                       : std::string();
}

Refusal read_refusal(const json::object& status) {
  constexpr std::string_view kQuota = "exceeded quota: ";
  constexpr std::string_view kLimited = "limited: ";
  constexpr std::string_view kInvalid = " is invalid: ";
  constexpr std::string_view kDenied = "denied request: ";
  const std::string_view message = get_string(status, "message");
  const std::string_view reason = get_string(status, "reason");
  const auto passing = [](std::string words) { return Refusal{std::move(words), false}; };
  const auto lasting = [](std::string words) { return Refusal{std::move(words), true}; };
  if (const std::size_t at = message.find(kQuota); at != std::string_view::npos) {
    const std::string_view rest = message.substr(at + kQuota.size());
    const std::size_t limited = rest.find(kLimited);
    return passing(fmt::format(
        "the namespace's quota '{}' is used up: it allows {}, of which {} is used, and this asks "
        "for "
        "{}",
        rest.substr(0, rest.find(',')),
        limited == std::string_view::npos ? "less" : rest.substr(limited + kLimited.size()),
        between(rest, "used: ", ", limited"), between(rest, "requested: ", ", used")));
  }
  if (has(message, "failed quota")) {
    return lasting(fmt::format("the namespace's quota wants more to be said: {}",
                               shortened(message.substr(message.find("failed quota")))));
  }
  // What a policy or a webhook says may be about the hour, or be put right.
  if (const auto policy = between(message, "ValidatingAdmissionPolicy '", "'"); !policy.empty()) {
    const std::size_t said = message.find(kDenied);
    return passing(fmt::format("the cluster's admission policy {} refused it{}", policy,
                               said == std::string_view::npos
                                   ? std::string()
                                   : ": " + shortened(message.substr(said + kDenied.size()))));
  }
  if (const std::size_t at = message.find("admission webhook \""); at != std::string_view::npos) {
    const std::string_view name = between(message, "admission webhook \"", "\"");
    constexpr std::string_view kDeniedThe = "denied the request: ";
    const std::size_t said = message.find(kDeniedThe);
    return passing(said == std::string_view::npos
                       ? fmt::format("the cluster's admission webhook {} refused it", name)
                       : fmt::format("the cluster's admission webhook {} refused it: {}", name,
                                     shortened(message.substr(said + kDeniedThe.size()))));
  }
  if (has(message, "failed calling webhook")) {
    return passing(fmt::format("the cluster's admission webhook {} does not answer",
                               between(message, "failed calling webhook \"", "\"")));
  }
  if (const auto level = between(message, "violates PodSecurity \"", "\""); !level.empty()) {
    const std::size_t details = message.find("\": ");
    return lasting(fmt::format("the namespace's Pod Security '{}' forbids it: {}", level,
                               details == std::string_view::npos
                                   ? std::string()
                                   : shortened(message.substr(details + 3))));
  }
  if (const auto name = between(message, "no PriorityClass with name ", " was found");
      !name.empty()) {
    return passing(fmt::format("there is no PriorityClass '{}'", name));
  }
  if (const auto name = between(message, "RuntimeClass \"", "\" not found"); !name.empty()) {
    return passing(fmt::format("there is no RuntimeClass '{}'", name));
  }
  if (has(message, "is being terminated")) {
    return passing("the namespace is being deleted");
  }
  // 'services "x" is forbidden: User "u" cannot patch resource "services" in API group …'
  if (has(message, " is forbidden: User \"") && has(message, " resource \"") &&
      has(message, "\" cannot ")) {
    return passing(fmt::format("Quad's account lacks a permission: {}", shortened(message)));
  }
  if (reason == "Invalid") {
    // "Pod \"x\" is invalid: spec.y: Invalid value: …"
    const std::size_t at = message.find(kInvalid);
    return lasting(fmt::format(
        "the API server does not accept it: {}",
        shortened(at == std::string_view::npos ? message : message.substr(at + kInvalid.size()))));
  }
  const std::string text = shortened(message);
  return {text.empty() ? fmt::format("the API server refused it ({})",
                                     reason.empty() ? "no reason given" : reason)
                       : fmt::format("the API server refused it: {}", text),
          reason == "Forbidden" || reason == "BadRequest" || reason == "RequestEntityTooLarge"};
}

}  // namespace quad::kubernetes
