#include "engine/kubernetes/views/pod_view.h"

#include <algorithm>

#include "engine/kubernetes/views/pod_config.h"
#include "engine/kubernetes/views/pod_names.h"
#include "engine/kubernetes/views/quantity.h"

namespace quad::kubernetes {

namespace {

/// CPU in thousandths, all else in units, by the resource's name.
using Amounts = std::map<std::string, std::int64_t>;

Amounts read_amounts(const json::object* list) {
  Amounts amounts;
  if (list != nullptr) {
    for (const auto& [key, value] : *list) {
      const std::string_view name = key;
      amounts[std::string(name)] = name == "cpu" ? milli_of(*list, name) : units_of(*list, name);
    }
  }
  return amounts;
}

/// What a container asks for: a limit alone is also a request.
Amounts requests_of(const json::object& container) {
  const json::object* resources = get_object(container, "resources");
  if (resources == nullptr) {
    return {};
  }
  Amounts amounts = read_amounts(get_object(*resources, "requests"));
  amounts.merge(read_amounts(get_object(*resources, "limits")));
  return amounts;
}

void add(Amounts& to, const Amounts& more) {
  for (const auto& [name, amount] : more) {
    to[name] += amount;
  }
}

void raise(Amounts& to, const Amounts& other) {
  for (const auto& [name, amount] : other) {
    std::int64_t& have = to[name];
    have = std::max(have, amount);
  }
}

/// As kube-scheduler counts: all containers together, or the neediest init container beside the
/// sidecars started before it, whichever is more; then what the pod as a whole says, and its
/// runtime's overhead.
Amounts pod_requests(const json::object& spec) {
  Amounts sum;
  const json::array* containers = get_array(spec, "containers");
  for (std::size_t i = 0; containers != nullptr && i < containers->size(); ++i) {
    if (const json::object* one = (*containers)[i].if_object()) {
      add(sum, requests_of(*one));
    }
  }
  Amounts sidecars;
  Amounts peak;
  const json::array* inits = get_array(spec, "initContainers");
  for (std::size_t i = 0; inits != nullptr && i < inits->size(); ++i) {
    if (const json::object* one = (*inits)[i].if_object()) {
      Amounts here = requests_of(*one);
      add(here, sidecars);
      if (get_string(*one, "restartPolicy") == "Always") {
        sidecars = here;
      }
      raise(peak, here);
    }
  }
  add(sum, sidecars);
  raise(sum, peak);
  for (const auto& [name, amount] : requests_of(spec)) {
    sum[name] = amount;
  }
  add(sum, read_amounts(get_object(spec, "overhead")));
  return sum;
}

void put_requests(const json::object& spec, const std::vector<std::string>& gpu_resources,
                  PodView& pod) {
  for (const auto& [name, amount] : pod_requests(spec)) {
    const bool gpu = is_whole_gpu(name) || std::find(gpu_resources.begin(), gpu_resources.end(),
                                                     name) != gpu_resources.end();
    if (name == "cpu") {
      pod.requests.cpu_milli = amount;
    } else if (name == "memory") {
      pod.requests.memory_bytes = amount;
    } else if (gpu) {
      pod.requests.gpus += static_cast<std::int32_t>(std::min<std::int64_t>(amount, 1'000'000));
    } else if (amount > 0 && name.find('/') != std::string::npos) {
      pod.devices[name] = amount;
    }
  }
}

/// The node that the pod's required affinity names, if it names one.
std::string pinned_node(const json::object& spec) {
  const json::object* affinity = get_object(spec, "affinity");
  const json::object* node = affinity ? get_object(*affinity, "nodeAffinity") : nullptr;
  const json::object* required =
      node ? get_object(*node, "requiredDuringSchedulingIgnoredDuringExecution") : nullptr;
  const json::array* terms = required ? get_array(*required, "nodeSelectorTerms") : nullptr;
  const json::object* term =
      terms != nullptr && !terms->empty() ? (*terms)[0].if_object() : nullptr;
  const json::array* fields = term ? get_array(*term, "matchFields") : nullptr;
  const json::object* field =
      fields != nullptr && !fields->empty() ? (*fields)[0].if_object() : nullptr;
  const json::array* values = field ? get_array(*field, "values") : nullptr;
  const bool one = values != nullptr && values->size() == 1 && (*values)[0].is_string();
  return one ? std::string(std::string_view((*values)[0].get_string())) : std::string();
}

void read_state(const json::object& state, ContainerView& view) {
  if (const json::object* waiting = get_object(state, "waiting")) {
    view.state = ContainerView::State::kWaiting;
    view.reason = get_string(*waiting, "reason");
    view.message = get_string(*waiting, "message");
  } else if (const json::object* running = get_object(state, "running")) {
    view.state = ContainerView::State::kRunning;
    view.started = get_time(*running, "startedAt");
  } else if (const json::object* ended = get_object(state, "terminated")) {
    view.state = ContainerView::State::kTerminated;
    view.reason = get_string(*ended, "reason");
    view.message = get_string(*ended, "message");
    view.exit_code = static_cast<std::int32_t>(get_int(*ended, "exitCode"));
    view.started = get_time(*ended, "startedAt");
    view.finished = get_time(*ended, "finishedAt");
  }
}

std::vector<std::string> unhealthy_devices(const json::object& status) {
  std::vector<std::string> ids;
  const json::array* all = get_array(status, "allocatedResourcesStatus");
  for (std::size_t i = 0; all != nullptr && i < all->size(); ++i) {
    const json::object* one = (*all)[i].if_object();
    const json::array* devices = one ? get_array(*one, "resources") : nullptr;
    for (std::size_t k = 0; devices != nullptr && k < devices->size(); ++k) {
      const json::object* device = (*devices)[k].if_object();
      if (device != nullptr && get_string(*device, "health") == "Unhealthy") {
        ids.emplace_back(get_string(*device, "resourceID"));
      }
    }
  }
  return ids;
}

std::vector<ContainerView> read_containers(const json::object& status, std::string_view key) {
  std::vector<ContainerView> views;
  const json::array* list = get_array(status, key);
  for (std::size_t i = 0; list != nullptr && i < list->size(); ++i) {
    if (const json::object* one = (*list)[i].if_object()) {
      ContainerView view;
      view.name = get_string(*one, "name");
      view.image = get_string(*one, "image");
      view.restarts = static_cast<std::int32_t>(get_int(*one, "restartCount"));
      if (const json::object* state = get_object(*one, "state")) {
        read_state(*state, view);
      }
      view.unhealthy_devices = unhealthy_devices(*one);
      views.push_back(std::move(view));
    }
  }
  return views;
}

void read_spec(const json::object& spec, const std::vector<std::string>& gpu_resources,
               PodView& pod) {
  pod.node = get_string(spec, "nodeName");
  pod.wanted_node = pinned_node(spec);
  put_requests(spec, gpu_resources, pod);
  const json::object* rank = nullptr;
  const json::array* containers = get_array(spec, "containers");
  for (std::size_t i = 0; containers != nullptr && i < containers->size(); ++i) {
    const json::object* one = (*containers)[i].if_object();
    if (one != nullptr && get_string(*one, "name") == kRankContainer) {
      rank = one;
    }
  }
  const json::object* resources = rank ? get_object(*rank, "resources") : nullptr;
  if (const json::object* limits = resources ? get_object(*resources, "limits") : nullptr) {
    pod.memory_limit = units_of(*limits, "memory");
  }
}

const ContainerView* named(const std::vector<ContainerView>& all, std::string_view name) {
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const ContainerView& one) { return one.name == name; });
  return found == all.end() ? nullptr : &*found;
}

}  // namespace

const Condition* PodView::condition(std::string_view type) const {
  const auto found = std::find_if(conditions.begin(), conditions.end(),
                                  [&](const Condition& one) { return one.type == type; });
  return found == conditions.end() ? nullptr : &*found;
}

const ContainerView* PodView::rank_container() const {
  return named(containers, kRankContainer);
}

const ContainerView* PodView::installer() const {
  const ContainerView* beside = named(containers, kInstallContainer);
  return beside != nullptr ? beside : named(init_containers, kInstallContainer);
}

bool PodView::finished() const {
  return phase == "Succeeded" || phase == "Failed";
}

Result<PodView> read_pod(const json::object& object, std::string_view server,
                         const std::vector<std::string>& gpu_resources) {
  const json::object* metadata = get_object(object, "metadata");
  PodView pod;
  pod.name = metadata ? get_string(*metadata, "name") : std::string_view();
  if (pod.name.empty()) {
    return error(ErrorCode::kInvalid, "This is no Pod: it has no name");
  }
  pod.namespace_name = get_string(*metadata, "namespace");
  pod.uid = get_string(*metadata, "uid");
  pod.created = get_time(*metadata, "creationTimestamp");
  pod.deleted = get_time(*metadata, "deletionTimestamp");
  if (const json::object* labels = get_object(*metadata, "labels")) {
    pod.rank = rank_of_labels(*labels, server);
  }
  if (const json::object* spec = get_object(object, "spec")) {
    read_spec(*spec, gpu_resources, pod);
    pod.grace_seconds = get_int(*spec, "terminationGracePeriodSeconds");
  }
  if (const json::object* status = get_object(object, "status")) {
    pod.phase = get_string(*status, "phase");
    pod.reason = get_string(*status, "reason");
    pod.message = get_string(*status, "message");
    pod.address = get_string(*status, "podIP");
    pod.started = get_time(*status, "startTime");
    pod.conditions = read_conditions(*status);
    pod.init_containers = read_containers(*status, "initContainerStatuses");
    pod.containers = read_containers(*status, "containerStatuses");
  }
  return pod;
}

}  // namespace quad::kubernetes
