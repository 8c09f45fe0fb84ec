// Tasks as SkyPilot would print them.

#include <fmt/format.h>

#include <string.h>

#include <algorithm>
#include <functional>
#include <queue>

#include "spec/number.h"
#include "spec/parse.h"

namespace quad::spec {

namespace {

constexpr std::string_view kRedacted = "<redacted>";

json::value plain(double value) {
  return is_whole(value) ? json::value(static_cast<std::int64_t>(value)) : json::value(value);
}

json::array strings(const std::vector<std::string>& list) {
  json::array out;
  for (const std::string& item : list) {
    out.push_back(json::string(item));
  }
  return out;
}

json::object pairs(const std::vector<NamedValue>& list) {
  json::object out;
  for (const NamedValue& item : list) {
    out[item.first] = item.second;
  }
  return out;
}

void put(json::object& out, std::string_view key, const std::optional<std::string>& value) {
  if (value) {
    out[key] = *value;
  }
}

void put(json::object& out, std::string_view key, const std::optional<bool>& value) {
  if (value) {
    out[key] = *value;
  }
}

json::object image_json(const Resources& r) {
  json::object out;
  for (const Image& image : r.images) {
    out[image.region.value_or("null")] = image.image;
  }
  put(out, "docker", r.docker_image);
  return out;
}

json::value autostop_json(const Autostop& autostop) {
  if (!autostop.enabled) {
    return false;
  }
  json::object out = {{"idle_minutes", autostop.idle_minutes}, {"down", autostop.down}};
  put(out, "wait_for", autostop.wait_for);
  return out;
}

json::object resources_json(const Resources& r, const json::object& config, Redact redact) {
  json::object out;
  put(out, "infra", r.infra());
  put(out, "instance_type", r.instance_type);
  if (r.cpus) {
    out["cpus"] = r.cpus->text;
  }
  if (r.memory) {
    out["memory"] = r.memory->text;
  }
  if (r.accelerator) {
    out["accelerators"] = json::object{{r.accelerator->name, plain(r.accelerator->count)}};
  }
  if (r.accelerator_args) {
    out["accelerator_args"] = *r.accelerator_args;
  }
  put(out, "use_spot", r.use_spot);
  if (r.job_recovery) {
    out["job_recovery"] = r.job_recovery->written;
  }
  if (r.disk_gigabytes) {
    out["disk_size"] = *r.disk_gigabytes;
  }
  if (json::object images = image_json(r); !images.empty()) {
    out["image_id"] = std::move(images);
  }
  put(out, "disk_tier", r.disk_tier);
  put(out, "network_tier", r.network_tier);
  put(out, "local_disk", r.local_disk);
  if (r.max_hourly_cost) {
    out["max_hourly_cost"] = plain(*r.max_hourly_cost);
  }
  if (!r.ports.empty()) {
    json::array ports;
    for (const PortRange range : r.ports) {
      ports.push_back(json::string(range.first == range.last
                                       ? std::to_string(range.first)
                                       : fmt::format("{}-{}", range.first, range.last)));
    }
    out["ports"] = std::move(ports);
  }
  if (!r.labels.empty()) {
    out["labels"] = pairs(r.labels);
  }
  if (!r.disks.empty()) {
    out["volumes"] = r.disks;
  }
  if (r.autostop) {
    out["autostop"] = autostop_json(*r.autostop);
  }
  put(out, "_no_missing_accel_warnings", r.no_missing_accelerator_warnings);
  if (r.priority) {
    out["priority"] = *r.priority;
  }
  put(out, "priority_class", r.priority_class);
  if (r.docker_login) {
    out["_docker_login_config"] = {
        {"username", r.docker_login->username},
        {"password",
         redact == Redact::kYes ? json::value(kRedacted) : json::value(r.docker_login->password)},
        {"server", r.docker_login->server}};
  }
  put(out, "_docker_username_for_runpod", r.docker_username_for_runpod);
  if (!config.empty()) {
    out["_cluster_config_overrides"] = config;
  }
  put(out, "_is_image_managed", r.image_managed);
  put(out, "_requires_fuse", r.requires_fuse);
  return out;
}

json::object storage_json(const Storage& storage) {
  json::object out;
  const bool bucket_url = !storage.sources_listed && storage.sources.size() == 1 &&
                          kind_of_source(storage.sources[0]) != FileMount::Kind::kLocal;
  if (!bucket_url) {
    put(out, "name", storage.name);
  }
  if (storage.sources_listed) {
    out["source"] = strings(storage.sources);
  } else if (!storage.sources.empty()) {
    out["source"] = storage.sources[0];
  }
  put(out, "store", storage.store);
  put(out, "_is_sky_managed", storage.sky_managed);
  out["persistent"] = storage.persistent;
  out["mode"] = storage.mode;
  put(out, "type", storage.type);
  if (storage.force_delete) {
    out["_force_delete"] = true;
  }
  put(out, "_bucket_sub_path", storage.bucket_sub_path);
  json::object config;
  if (!storage.mount_cached.empty()) {
    config["mount_cached"] = storage.mount_cached;
  }
  if (!storage.mount.empty()) {
    config["mount"] = storage.mount;
  }
  if (!config.empty()) {
    out["config"] = std::move(config);
  }
  return out;
}

json::value mount_json(const FileMount& mount) {
  if (mount.storage) {
    return storage_json(*mount.storage);
  }
  if (!mount.listed_sources.empty()) {
    return strings(mount.listed_sources);
  }
  return json::string(mount.source);
}

/// Values go under secrets. References go there too if there are no values, else under
/// managed_secrets.
void put_secrets(json::object& out, const Task& task, Redact redact) {
  json::object values;
  json::array references;
  json::array managed;
  for (const Secret& secret : task.secrets) {
    const std::string name = secret.scope ? *secret.scope + "." + secret.name : secret.name;
    if (secret.value) {
      values[name] = redact == Redact::kYes ? std::string(kRedacted) : *secret.value;
    } else if (secret.mount_path) {
      managed.push_back(json::object{{name, json::object{{"mount_path", *secret.mount_path}}}});
    } else {
      references.push_back(json::string("secrets:" + name));
    }
  }
  if (!values.empty()) {
    out["secrets"] = std::move(values);
    managed.insert(managed.end(), references.begin(), references.end());
  } else if (!references.empty()) {
    out["secrets"] = std::move(references);
  }
  if (!managed.empty()) {
    out["managed_secrets"] = std::move(managed);
  }
}

/// The values of secrets; the longest first, as one may be a part of another.
using Hidden = std::vector<std::string_view>;

/// The text with a mark in the place of each value, from left to right. Costs some passes over the
/// text for each value, whatever stands in either.
std::string hidden_in(std::string_view text, const Hidden& hidden) {
  using Place =
      std::pair<std::size_t, std::size_t>;  // where it is next, and which: the longest first
  std::priority_queue<Place, std::vector<Place>, std::greater<>> next;
  const auto look = [&](std::size_t which, std::size_t from) {
    const std::string_view value = hidden[which];
    // Not std::string_view::find, which takes the product of both lengths for some texts.
    if (const void* found =
            ::memmem(text.data() + from, text.size() - from, value.data(), value.size())) {
      next.emplace(static_cast<std::size_t>(static_cast<const char*>(found) - text.data()), which);
    }
  };
  for (std::size_t i = 0; i < hidden.size(); ++i) {
    look(i, 0);
  }
  std::string shown;
  std::size_t at = 0;
  while (!next.empty()) {
    const auto [place, which] = next.top();
    next.pop();
    if (place >= at) {
      shown.append(text, at, place - at);
      shown += kRedacted;
      at = place + hidden[which].size();
    }
    look(which, at);
  }
  shown.append(text, at);
  return shown;
}

/// Puts a mark in the place of every secret's value, wherever in the texts of `value` it was filled
/// in.
void hide(json::value& value, const Hidden& hidden) {
  if (auto* object = value.if_object()) {
    json::object shown;
    for (auto& member : *object) {
      json::value key = json::string(member.key());
      hide(key, hidden);
      hide(member.value(), hidden);
      shown[std::string_view(key.get_string())] = std::move(member.value());
    }
    *object = std::move(shown);
  } else if (auto* array = value.if_array()) {
    for (json::value& item : *array) {
      hide(item, hidden);
    }
  } else if (auto* given = value.if_string()) {
    *given = hidden_in(std::string_view(given->data(), given->size()), hidden);
  }
}

/// Secrets are filled into the same parts as other variables are (substitute.cc).
void hide_secrets(json::object& task_json, const Task& task) {
  Hidden values;
  for (const Secret& secret : task.secrets) {
    if (secret.value && !secret.value->empty()) {
      values.emplace_back(*secret.value);
    }
  }
  std::sort(values.begin(), values.end(),
            [](std::string_view a, std::string_view b) { return a.size() > b.size(); });
  for (const std::string_view part : {"file_mounts", "service", "pool", "workdir", "volumes"}) {
    if (json::value* value = values.empty() ? nullptr : task_json.if_contains(part)) {
      hide(*value, values);
    }
  }
}

json::value workdir_json(const Workdir& workdir) {
  if (const auto* local = std::get_if<LocalWorkdir>(&workdir)) {
    return json::string(local->path);
  }
  if (const auto* git = std::get_if<GitWorkdir>(&workdir)) {
    json::object out = {{"url", git->url}};
    put(out, "ref", git->ref);
    return out;
  }
  return nullptr;
}

json::array hooks_json(const std::vector<Hook>& hooks) {
  json::array out;
  for (const Hook& hook : hooks) {
    out.push_back(json::object{
        {"run", hook.run}, {"events", strings(hook.events)}, {"timeout", hook.timeout_seconds}});
  }
  return out;
}

}  // namespace

json::array to_json(const std::vector<Diagnostic>& list) {
  json::array out;
  for (const Diagnostic& d : list) {
    out.push_back(json::object{{"message", d.message},
                               {"key", d.key},
                               {"line", d.line},
                               {"column", d.column},
                               {"hint", d.hint}});
  }
  return out;
}

json::object to_json(const Task& task, Redact redact) {
  json::object out;
  put(out, "name", task.name);
  if (task.choice == Choice::kOne) {
    out["resources"] = task.resources.empty()
                           ? json::object()
                           : resources_json(task.resources[0], task.config, redact);
  } else {
    json::array alternatives;
    for (const Resources& alternative : task.resources) {
      alternatives.push_back(resources_json(alternative, task.config, redact));
    }
    out["resources"] = json::object{
        {task.choice == Choice::kOrdered ? "ordered" : "any_of", std::move(alternatives)}};
  }
  if (!task.hooks.empty()) {
    out["config"] = json::object{{"hooks", hooks_json(task.hooks)}};
  }
  if (task.service) {
    out["service"] = task.service->written;
  }
  out["num_nodes"] = task.num_nodes;
  if (!task.inputs.empty()) {
    out["inputs"] = task.inputs;
  }
  if (!task.outputs.empty()) {
    out["outputs"] = task.outputs;
  }
  put(out, "setup", task.setup);
  if (!std::holds_alternative<NoWorkdir>(task.workdir)) {
    out["workdir"] = workdir_json(task.workdir);
  }
  put(out, "event_callback", task.event_callback);
  put(out, "run", task.run);
  if (!task.envs.empty()) {
    out["envs"] = pairs(task.envs);
  }
  put_secrets(out, task, redact);
  json::object mounts;
  for (const FileMount& mount : task.file_mounts) {
    mounts[mount.destination] = mount_json(mount);
  }
  out["file_mounts"] = std::move(mounts);
  if (task.file_mounts_mapping) {
    out["file_mounts_mapping"] = *task.file_mounts_mapping;
  }
  out["volumes"] = task.volumes_written;
  if (task.volume_mounts) {
    out["volume_mounts"] = *task.volume_mounts;
  }
  if (!task.api_server_access) {
    out["api_server_access"] = false;
  }
  if (task.metadata) {
    out["_metadata"] = *task.metadata;
  }
  if (task.quad) {
    out["quad"] = task.quad->written;
  }
  if (redact == Redact::kYes) {
    hide_secrets(out, task);
  }
  return out;
}

json::object to_json(const TaskSet& set, std::string_view path, Redact redact) {
  json::object out = {{"path", path},
                      {"ok", set.ok()},
                      {"errors", to_json(set.errors)},
                      {"warnings", to_json(set.warnings)}};
  out["dag_name"] = set.dag_name ? json::value(*set.dag_name) : json::value(nullptr);
  json::array tasks;
  for (const Task& task : set.tasks) {
    tasks.push_back(to_json(task, redact));
  }
  out["tasks"] = std::move(tasks);
  return out;
}

}  // namespace quad::spec
