#include "server/unhonoured.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "spec/task_grammar.h"

namespace quad::server {

namespace {

void check_secrets(const spec::Task& task, Findings& findings) {
  for (const spec::Secret& secret : task.secrets) {
    if (!spec::is_env_name(secret.name)) {
      findings.refuse_at(secret.mark, "secrets",
                         "A secret's name must be letters, digits and _, and not begin with a "
                         "digit; write NAME: value. It is not repeated here, as it may hold the "
                         "secret itself.");
      continue;
    }
    if (!secret.value) {
      findings.refuse_at(
          secret.mark, "secrets." + secret.name,
          fmt::format("Secret '{0}' has no value; give one with --secret {0}=VALUE.", secret.name));
    }
    if (secret.mount_path) {
      findings.refuse_at(secret.mark, "managed_secrets." + secret.name,
                         "Secrets can be variables here, not files yet; leave mount_path out.");
    }
  }
}

void check_quad(const spec::QuadBlock& quad, Findings& findings) {
  if (!quad.depends_on.empty()) {
    findings.refuse("quad.depends_on", "Dependencies between jobs are not supported yet.");
  }
  if (quad.array) {
    findings.refuse("quad.array", "Job arrays are not supported yet; launch the jobs one by one.");
  }
  if (!quad.notify.empty()) {
    findings.warn("quad.notify", "Notices are not sent yet; follow 'quad events' instead.");
  }
  if (quad.queue) {
    findings.warn("quad.queue", "There is one queue only; the name is ignored.");
  }
  if (quad.preemptible) {
    findings.warn("quad.preemptible", "No job is preempted for another yet; this has no effect.");
  }
  if (quad.kind != spec::JobKind::kBatch) {
    findings.warn("quad.kind", "Sessions and services run as a batch job for now.");
  }
  if (quad.checkpoint && quad.checkpoint->interval) {
    findings.warn("quad.checkpoint.interval",
                  "How often the script saves is not used yet; each complete checkpoint counts as "
                  "soon as it is seen.");
  }
}

/// Of config.kubernetes, what ranks in pods do not get.
void check_kubernetes(const json::value& section, Findings& findings) {
  constexpr std::array<std::string_view, 4> kHonoured = {
      "pod_config", "custom_metadata", "provision_timeout", "set_pod_resource_limits"};
  if (!section.is_object()) {
    return;
  }
  for (const auto& one : section.get_object()) {
    const std::string_view key = one.key();
    if (std::find(kHonoured.begin(), kHonoured.end(), key) == kHonoured.end()) {
      findings.warn(fmt::format("config.kubernetes.{}", key),
                    "This setting has no effect here: Quad itself queues jobs and makes their "
                    "pods.");
    }
  }
}

void check_places(const spec::Resources& resources, Findings& findings) {
  if (is_kubernetes(resources) && !findings.containers) {
    findings.warn(place_key(resources),
                  "This server has no Kubernetes; the job runs on local nodes.");
  }
  if (resources.instance_type) {
    findings.warn("resources.instance_type",
                  "Instance types are a cloud's; here cpus, memory and accelerators count.");
  }
  if (resources.use_spot.value_or(false)) {
    findings.warn("resources.use_spot", "Local nodes are not reclaimed; use_spot has no effect.");
  }
  if (resources.max_hourly_cost) {
    findings.warn("resources.max_hourly_cost",
                  "Local nodes have no price; max_hourly_cost has no effect.");
  }
  if (resources.accelerator_args) {
    findings.warn("resources.accelerator_args",
                  "These arguments are for TPUs, and have no effect on local nodes.");
  }
}

void check_images(const spec::Resources& resources, Findings& findings) {
  if (findings.containers) {
    return;
  }
  if (!resources.images.empty() || resources.docker_image) {
    findings.warn("resources.image_id",
                  "Local nodes run jobs without containers; the image is ignored.");
  }
  if (resources.docker_login) {
    findings.warn("resources.image_id",
                  "No image is fetched on local nodes; the registry's login is not used.");
  }
  if (resources.image_managed) {
    findings.warn("resources._is_image_managed",
                  "No image is fetched on local nodes; this has no effect.");
  }
}

void check_disks(const spec::Resources& resources, Findings& findings) {
  if (resources.disk_gigabytes && !findings.containers) {
    findings.warn("resources.disk_size",
                  "A job may fill the disk that the machine has; disk_size is no bound here.");
  }
  if (resources.disk_tier) {
    findings.warn("resources.disk_tier",
                  "Local nodes have the disks that they have; disk_tier has no effect.");
  }
  if (resources.local_disk) {
    findings.warn("resources.local_disk",
                  "Local nodes have the disks that they have; local_disk has no effect.");
  }
  if (!resources.disks.empty()) {
    findings.warn("resources.volumes",
                  "A cloud's disks are not attached to local nodes; volumes has no effect.");
  }
  if (resources.requires_fuse) {
    findings.warn("resources._requires_fuse",
                  "Nothing is mounted through FUSE on local nodes; this has no effect.");
  }
}

}  // namespace

void Findings::refuse(std::string key, std::string message, std::string hint) {
  const spec::Mark mark = marks_ == nullptr ? spec::Mark{} : marks_->find(key);
  refuse_at(mark, std::move(key), std::move(message), std::move(hint));
}

void Findings::refuse_at(spec::Mark mark, std::string key, std::string message, std::string hint) {
  if (errors.size() < spec::Issues::kMostKept) {
    errors.push_back({std::move(message), std::move(key), std::move(hint), mark.line, mark.column});
  }
}

void Findings::warn(std::string key, std::string message) {
  const spec::Mark mark = marks_ == nullptr ? spec::Mark{} : marks_->find(key);
  warn_at(mark, std::move(key), std::move(message));
}

void Findings::warn_at(spec::Mark mark, std::string key, std::string message) {
  if (full()) {
    return;  // each is compared with those before it
  }
  const bool known = std::any_of(
      warnings.begin(), warnings.end(),
      [&](const spec::Diagnostic& one) { return one.key == key && one.message == message; });
  if (!known) {
    warnings.push_back({std::move(message), std::move(key), {}, mark.line, mark.column});
  }
}

bool is_kubernetes(const spec::Resources& resources) {
  return resources.cloud && same_ignoring_case(*resources.cloud, "kubernetes");
}

bool is_elsewhere(const spec::Resources& resources) {
  return !is_kubernetes(resources) && !resources.on_local() &&
         (resources.cloud || resources.region || resources.zone);
}

std::string place_key(const spec::Resources& resources) {
  for (const std::string_view key : {"resources.cloud", "resources.region", "resources.zone"}) {
    if (resources.marks.has(key)) {
      return std::string(key);
    }
  }
  return "resources.infra";
}

void check_task(const spec::Task& task, Findings& findings) {
  findings.look_at(task.marks);
  if (task.service) {
    findings.refuse(task.service->is_pool ? "pool" : "service",
                    "Services and pools cannot be launched yet; leave this section out to run the "
                    "task as a job.");
  }
  if (!task.volumes.empty() && !findings.containers) {
    findings.refuse(
        "volumes",
        "Volumes are not brought to local nodes; use a path under the job's home instead.");
  }
  check_secrets(task, findings);
  if (!task.hooks.empty()) {
    findings.warn("config.hooks", "Hooks are not run on local nodes.");
  }
  if (task.event_callback) {
    findings.warn("event_callback", "The callback is not run yet; follow 'quad events' instead.");
  }
  if (task.asks_api_server_access) {
    findings.warn("api_server_access",
                  "A job gets no token for this server yet; give it one as a secret.");
  }
  if (!task.inputs.empty()) {
    findings.warn("inputs", "inputs only estimates a cloud's costs, and is ignored.");
  }
  if (!task.outputs.empty()) {
    findings.warn("outputs", "outputs only estimates a cloud's costs, and is ignored.");
  }
  for (const auto& section : task.config) {
    if (section.key() == "kubernetes" && findings.containers) {
      check_kubernetes(section.value(), findings);
      continue;
    }
    findings.warn(fmt::format("config.{}", std::string_view(section.key())),
                  "This setting is for another engine, and has no effect on local nodes.");
  }
  if (task.file_mounts_mapping) {
    findings.warn("file_mounts_mapping",
                  "This is a note that SkyPilot makes for itself, and is ignored.");
  }
  if (task.volume_mounts) {
    findings.warn("volume_mounts",
                  "This is a note that SkyPilot makes for itself, and is ignored; write volumes.");
  }
  if (task.metadata) {
    findings.warn("_metadata", "This is a note that SkyPilot makes for itself, and is ignored.");
  }
  if (task.quad) {
    check_quad(*task.quad, findings);
  }
}

void check_resources(const spec::Resources& resources, Findings& findings) {
  findings.look_at(resources.marks);
  check_places(resources, findings);
  check_images(resources, findings);
  check_disks(resources, findings);
  if (resources.job_recovery && resources.job_recovery->strategy) {
    findings.warn("resources.job_recovery.strategy",
                  "A job is recovered on whatever nodes are free; the strategy has no effect.");
  }
  if (resources.network_tier && !findings.containers) {
    findings.warn("resources.network_tier",
                  "Local nodes have the network that they have; network_tier has no effect.");
  }
  if (!resources.ports.empty() && !findings.containers) {
    findings.warn("resources.ports", "Ports of local nodes are open to this machine only.");
  }
  if (!resources.labels.empty() && !findings.containers) {
    findings.warn("resources.labels",
                  "Local nodes carry no labels; they are kept with the task and do nothing.");
  }
  if (resources.autostop && resources.autostop->enabled && !findings.cluster) {
    findings.warn("resources.autostop",
                  "A job's nodes are free when it ends; autostop is for clusters (launch -c).");
  }
  if (resources.priority_class && !findings.containers) {
    findings.warn("resources.priority_class",
                  "There are no priority classes here; write priority, from -1000 to 1000.");
  }
  // Of a GPU by its memory, this is spec's own: see SkyPilot's to_yaml_config().
  const bool own_note = resources.accelerator && !resources.accelerator->by_name;
  if (resources.no_missing_accelerator_warnings && !own_note) {
    findings.warn("resources._no_missing_accel_warnings",
                  "This is a note that SkyPilot makes for itself, and is ignored.");
  }
  if (resources.accelerator && resources.accelerator->milli % 1000 != 0) {
    findings.warn(
        "resources.accelerators",
        fmt::format("GPUs are given whole; {:g} is rounded up to {}.", resources.accelerator->count,
                    (resources.accelerator->milli + 999) / 1000));
  }
}

}  // namespace quad::server
