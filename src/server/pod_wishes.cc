#include "server/pod_wishes.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "engine/kubernetes/views/node_view.h"
#include "engine/kubernetes/views/quantity.h"
#include "server/crypto.h"

namespace quad::server {

namespace {

json::array pairs(const std::vector<spec::NamedValue>& values) {
  json::array all;
  for (const auto& [name, value] : values) {
    all.push_back(json::array{name, value});
  }
  return all;
}

std::vector<kubernetes::NamedText> read_pairs(const json::object& object, std::string_view key) {
  std::vector<kubernetes::NamedText> all;
  if (const json::array* listed = get_array(object, key)) {
    for (const json::value& one : *listed) {
      const json::array& pair = one.as_array();
      all.emplace_back(pair.at(0).as_string(), pair.at(1).as_string());
    }
  }
  return all;
}

json::object object_of(const json::object& object, std::string_view key) {
  const json::object* found = get_object(object, key);
  return found == nullptr ? json::object() : *found;
}

json::object volume_of(const spec::Volume& volume) {
  json::object one;
  one["destination"] = volume.destination;
  one["kind"] = volume.host_path ? "host_path" : volume.name ? "claim" : "ephemeral";
  one["source"] = volume.host_path.value_or(volume.name.value_or(""));
  one["sub_path"] = volume.sub_path.value_or("");
  one["size"] = volume.size.value_or("");
  one["storage_class"] = volume.storage_class.value_or("");
  one["access_mode"] = volume.access_mode.value_or("");
  one["labels"] = pairs(volume.labels);
  return one;
}

/// SkyPilot gives sizes in GiB: "100", "100GB", "100Gi".
std::int64_t gibibytes(std::string_view text) {
  std::int64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number << 30U;
}

kubernetes::VolumeRequest read_volume(const json::object& one) {
  kubernetes::VolumeRequest volume;
  volume.destination = get_string(one, "destination");
  const std::string_view kind = get_string(one, "kind");
  volume.kind = kind == "host_path" ? kubernetes::VolumeRequest::Kind::kHostPath
                : kind == "claim"   ? kubernetes::VolumeRequest::Kind::kClaim
                                    : kubernetes::VolumeRequest::Kind::kEphemeral;
  volume.source = get_string(one, "source");
  volume.sub_path = get_string(one, "sub_path");
  volume.size_bytes = gibibytes(get_string(one, "size"));
  volume.storage_class = get_string(one, "storage_class");
  if (const std::string mode(get_string(one, "access_mode")); !mode.empty()) {
    volume.access_modes = {mode};
  }
  volume.labels = read_pairs(one, "labels");
  return volume;
}

}  // namespace

std::int64_t pod_bytes(std::int64_t bytes) {
  return std::llround(static_cast<double>(bytes) / (1LL << 30U) * 1e9);
}

json::object pod_wishes(const spec::Task& task, const spec::Resources& resources) {
  json::object wishes;
  wishes["image"] = resources.container_image().value_or("");
  if (resources.docker_login) {
    wishes["login"] = json::object{{"server", resources.docker_login->server},
                                   {"username", resources.docker_login->username},
                                   {"password", resources.docker_login->password}};
  }
  wishes["disk_gigabytes"] = resources.disk_gigabytes.value_or(0);
  wishes["best_network"] = resources.network_tier == "best";
  wishes["labels"] = pairs(resources.labels);
  json::array ports;
  for (const spec::PortRange& range : resources.ports) {
    for (int port = range.first; port <= range.last; ++port) {
      ports.push_back(port);
    }
  }
  wishes["ports"] = std::move(ports);
  json::array volumes;
  for (const spec::Volume& volume : task.volumes) {
    volumes.push_back(volume_of(volume));
  }
  wishes["volumes"] = std::move(volumes);
  const json::object kubernetes = object_of(task.config, "kubernetes");
  wishes["pod_config"] = object_of(kubernetes, "pod_config");
  wishes["custom_metadata"] = object_of(kubernetes, "custom_metadata");
  if (const json::value* patience = kubernetes.if_contains("provision_timeout")) {
    wishes["provision_timeout"] = *patience;
  }
  if (const json::value* limits = kubernetes.if_contains("set_pod_resource_limits")) {
    wishes["limits"] = limits->is_bool() ? json::value(limits->get_bool() ? 1.0 : 0.0) : *limits;
  }
  wishes["priority_class"] = resources.priority_class.value_or("");
  json::array files;
  for (const spec::Secret& secret : task.secrets) {
    if (secret.mount_path) {
      files.push_back(json::array{*secret.mount_path, secret.value.value_or("")});
    }
  }
  wishes["secret_files"] = std::move(files);
  if (task.quad && task.quad->checkpoint && task.quad->checkpoint->path) {
    wishes["checkpoint_path"] = *task.quad->checkpoint->path;
  }
  return wishes;
}

std::map<std::string, std::int64_t> devices_of(const spec::Task& task) {
  std::map<std::string, std::int64_t> devices;
  const json::object pod = object_of(object_of(task.config, "kubernetes"), "pod_config");
  const json::object spec = object_of(pod, "spec");
  const json::array* containers = get_array(spec, "containers");
  const json::object* rank =
      containers == nullptr || containers->empty() ? nullptr : (*containers)[0].if_object();
  for (const std::string_view part : {"requests", "limits"}) {
    const json::object amounts =
        rank == nullptr ? json::object() : object_of(object_of(*rank, "resources"), part);
    for (const auto& one : amounts) {
      const std::string name(one.key());
      if (name.find('/') != std::string::npos && !kubernetes::is_whole_gpu(name)) {
        devices[name] = std::max(devices[name], kubernetes::units_of(amounts, name));
      }
    }
  }
  std::erase_if(devices, [](const auto& one) { return one.second <= 0; });
  return devices;
}

kubernetes::PodRequest pod_request(const job::Request& asked, const job::Shape& shape,
                                   const json::object& wishes) {
  kubernetes::PodRequest request;
  request.job_name = asked.name;
  request.owner = asked.owner;
  request.holds = asked.kind == job::Kind::kHolder;
  request.ranks = asked.ranks;
  request.amount = shape.per_rank;
  request.stop_grace = asked.stop_grace;
  request.disk_bytes = get_int(wishes, "disk_gigabytes") << 30U;
  request.image = get_string(wishes, "image");
  if (const json::object* login = get_object(wishes, "login")) {
    request.login = kubernetes::RegistryLogin{std::string(get_string(*login, "server")),
                                              std::string(get_string(*login, "username")),
                                              std::string(get_string(*login, "password"))};
  }
  if (const json::array* volumes = get_array(wishes, "volumes")) {
    for (const json::value& volume : *volumes) {
      request.volumes.push_back(read_volume(volume.as_object()));
    }
  }
  for (auto& [path, content] : read_pairs(wishes, "secret_files")) {
    request.secret_files.push_back({std::move(path), std::move(content)});
  }
  request.checkpoint_path = get_string(wishes, "checkpoint_path");
  if (const json::array* ports = get_array(wishes, "ports")) {
    for (const json::value& port : *ports) {
      request.ports.push_back(static_cast<std::uint16_t>(port.as_int64()));
    }
  }
  request.labels = read_pairs(wishes, "labels");
  request.pod_config = object_of(wishes, "pod_config");
  request.custom_metadata = object_of(wishes, "custom_metadata");
  if (wishes.contains("provision_timeout")) {
    request.provision_timeout = Millis(get_int(wishes, "provision_timeout") * 1000);
  }
  if (wishes.contains("limits")) {
    request.limit_factor = get_double(wishes, "limits");
  }
  request.priority_class = get_string(wishes, "priority_class");
  request.best_network = get_bool(wishes, "best_network");
  return request;
}

Result<kubernetes::PodRequest> pod_request(const engine::StartOrder& order,
                                           const std::string& body_text,
                                           const std::string& secret_key) {
  const job::Job& job = *order.job;
  QUAD_ASSIGN(json::object body, parse_json_object(body_text));
  if (const std::string sealed(get_string(body, "sealed")); !sealed.empty()) {
    QUAD_ASSIGN(const std::string plain, open_sealed(secret_key, job.request->owner, sealed));
    QUAD_ASSIGN(const json::object parts, parse_json_object(plain));
    if (const json::value* pods = parts.if_contains("pods")) {
      body["pods"] = *pods;
    }
  }
  const auto attempt = std::find_if(job.attempts.begin(), job.attempts.end(),
                                    [&](const auto& one) { return one.epoch == order.key.epoch; });
  const json::array* pods = get_array(body, "pods");
  if (attempt == job.attempts.end() || pods == nullptr ||
      static_cast<std::size_t>(attempt->shape) >= pods->size()) {
    return error(ErrorCode::kInternal,
                 "The job was submitted to a server without Kubernetes; submit it again");
  }
  const json::object& wishes = pods->at(static_cast<std::size_t>(attempt->shape)).as_object();

  kubernetes::PodRequest request = pod_request(
      *job.request, job.request->shapes[static_cast<std::size_t>(attempt->shape)], wishes);
  request.key = order.key;
  request.node = order.holding.node;
  request.amount = order.holding.amount;
  return request;
}

}  // namespace quad::server
