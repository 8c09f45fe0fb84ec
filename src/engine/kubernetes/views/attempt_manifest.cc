#include "engine/kubernetes/views/attempt_manifest.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/kubernetes/views/pod_names.h"
#include "engine/kubernetes/views/pod_volumes.h"

namespace quad::kubernetes {

namespace {

json::object owner_reference(std::string_view kind, std::string_view name, std::string_view uid) {
  return {{"apiVersion", "v1"}, {"kind", kind}, {"name", name}, {"uid", uid}};
}

/// The object's metadata with the administrator's labels and annotations; its own stay.
json::object with_custom(json::object metadata, const PodSettings& settings) {
  for (const std::string_view part : {"labels", "annotations"}) {
    const json::object* custom = get_object(settings.custom_metadata, part);
    if (custom != nullptr && !custom->empty()) {
      json::value& there = metadata[part];
      json::object& own = there.is_object() ? there.get_object() : there.emplace_object();
      for (const auto& [key, value] : *custom) {
        own.emplace(key, value);
      }
    }
  }
  return metadata;
}

/// Of an object of which a server makes one.
json::object server_metadata(const PodSettings& settings, std::string_view name) {
  return with_custom(
      {{"name", name},
       {"namespace", settings.namespace_name},
       {"labels", {{"app.kubernetes.io/managed-by", "quad"}, {kLabelServer, settings.server}}}},
      settings);
}

json::object ranks_selector(const PodRequest& request, const PodSettings& settings) {
  json::object labels = identity_labels(settings.server, request.key);
  labels.erase(kLabelRank);
  labels.erase("app.kubernetes.io/managed-by");
  return labels;
}

std::string base64(std::string_view bytes) {
  constexpr std::string_view kLetters =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - i);
    std::uint32_t group = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      group = group << 8U | (k < count ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    }
    for (std::size_t k = 0; k < 4; ++k) {
      text += k <= count ? kLetters[group >> (18U - 6U * k) & 63U] : '=';
    }
  }
  return text;
}

json::object pull_secret(const PodRequest& request, const PodSettings& settings,
                         std::string_view secret_uid) {
  const RegistryLogin& login = *request.login;
  const std::string server =
      login.server.empty() ? std::string("https://index.docker.io/v1/") : login.server;
  json::object account{{"username", login.username},
                       {"password", login.password},
                       {"auth", base64(login.username + ":" + login.password)}};
  json::object servers;
  servers[server] = std::move(account);
  const json::object config{{"auths", std::move(servers)}};
  return {{"apiVersion", "v1"},
          {"kind", "Secret"},
          {"metadata",
           attempt_metadata(request, settings, pull_secret_name(request, settings), secret_uid)},
          {"type", "kubernetes.io/dockerconfigjson"},
          {"immutable", true},
          {"data", {{".dockerconfigjson", base64(to_text(config))}}}};
}

json::object headless_service(const PodRequest& request, const PodSettings& settings,
                              std::string_view secret_uid) {
  return {
      {"apiVersion", "v1"},
      {"kind", "Service"},
      {"metadata", attempt_metadata(request, settings, attempt_of(request, settings), secret_uid)},
      {"spec",
       {{"clusterIP", "None"},
        {"publishNotReadyAddresses", true},
        {"selector", ranks_selector(request, settings)}}}};
}

/// Of the job, not of the attempt, so that its address stays; the next attempt makes it its own.
json::object port_service(const PodRequest& request, const PodSettings& settings,
                          std::string_view secret_uid) {
  json::object metadata = attempt_metadata(
      request, settings, job_object_name(settings.server, request.key.job), secret_uid);
  json::object selector = ranks_selector(request, settings);
  selector[kLabelRank] = "0";
  json::array ports;
  for (const std::uint16_t port : request.ports) {
    ports.push_back(json::object{{"name", fmt::format("port-{}", port)},
                                 {"port", port},
                                 {"targetPort", port},
                                 {"protocol", "TCP"}});
  }
  return {{"apiVersion", "v1"},
          {"kind", "Service"},
          {"metadata", std::move(metadata)},
          {"spec",
           {{"type", settings.port_service_type},
            {"selector", std::move(selector)},
            {"ports", std::move(ports)}}}};
}

}  // namespace

std::string attempt_of(const PodRequest& request, const PodSettings& settings) {
  return attempt_name(settings.server, request.key.job, request.key.epoch);
}

std::string pull_secret_name(const PodRequest& request, const PodSettings& settings) {
  return attempt_of(request, settings) + "-pull";
}

json::object attempt_metadata(const PodRequest& request, const PodSettings& settings,
                              std::string name, std::string_view secret_uid) {
  json::object labels = identity_labels(settings.server, request.key);
  labels.erase(kLabelRank);
  return with_custom(
      {{"name", std::move(name)},
       {"namespace", settings.namespace_name},
       {"labels", std::move(labels)},
       {"ownerReferences",
        json::array{owner_reference("Secret", attempt_of(request, settings), secret_uid)}}},
      settings);
}

Result<json::object> secret_manifest(const PodRequest& request, const PodSettings& settings,
                                     const std::vector<json::object>& start_files) {
  constexpr std::size_t kMostBytes = 1'000'000;  // Kubernetes' own bound is 1 MiB
  json::object data;
  std::size_t bytes = 0;
  const auto put = [&](const std::string& key, const std::string& content) {
    data[key] = base64(content);
    bytes += content.size();
  };
  for (std::size_t rank = 0; rank < start_files.size(); ++rank) {
    put(fmt::format("start-{}.json", rank), to_text(start_files[rank]));
  }
  if (!settings.ca.empty()) {
    put("ca.pem", settings.ca);
  }
  for (std::size_t i = 0; i < request.secret_files.size(); ++i) {
    put(fmt::format("file-{}", i), request.secret_files[i].content);
  }
  if (bytes > kMostBytes) {
    return error(
        ErrorCode::kExhausted,
        fmt::format("The job's secrets and the start files of its {} ranks are {} kB, but a "
                    "Secret of Kubernetes holds 1 MB; use fewer or smaller secret files.",
                    request.ranks, bytes / 1000),
        "secrets");
  }
  json::object metadata = attempt_metadata(request, settings, attempt_of(request, settings), "");
  metadata["ownerReferences"] =
      json::array{owner_reference("ConfigMap", settings.root_name, settings.root_uid)};
  metadata["annotations"] =
      json::object{{"quad.io/job-name", request.job_name}, {"quad.io/owner-name", request.owner}};
  return json::object{{"apiVersion", "v1"}, {"kind", "Secret"},  {"metadata", std::move(metadata)},
                      {"type", "Opaque"},   {"immutable", true}, {"data", std::move(data)}};
}

std::vector<json::object> attempt_manifests(const PodRequest& request, const PodSettings& settings,
                                            std::string_view secret_uid) {
  std::vector<json::object> manifests;
  if (request.login) {
    manifests.push_back(pull_secret(request, settings, secret_uid));
  }
  if (request.ranks > 1) {
    manifests.push_back(headless_service(request, settings, secret_uid));
  }
  for (json::value& claim : shared_claims(request, settings)) {
    json::object& object = claim.get_object();
    object["metadata"].get_object()["ownerReferences"] =
        json::array{owner_reference("Secret", attempt_of(request, settings), secret_uid)};
    object["metadata"] = with_custom(std::move(object["metadata"].get_object()), settings);
    manifests.push_back(std::move(object));
  }
  if (!request.ports.empty()) {
    manifests.push_back(port_service(request, settings, secret_uid));
  }
  return manifests;
}

json::object root_manifest(const PodSettings& settings) {
  return {
      {"apiVersion", "v1"},
      {"kind", "ConfigMap"},
      {"metadata", server_metadata(settings, settings.root_name)},
      {"data",
       {{"about",
         "Everything that this Quad server makes here belongs to this object: to delete it ends "
         "and removes all of the server's jobs."}}}};
}

json::object disruption_budget_manifest(const PodSettings& settings,
                                        const std::set<std::string>& cordoned) {
  // Not maxUnavailable: 0, which Kubernetes can only work out for pods that have a controller.
  constexpr int kMoreThanThereAre = 1'000'000'000;
  json::object selector{{"matchLabels", {{kLabelServer, settings.server}}}};
  if (!cordoned.empty()) {
    json::array values;
    for (const std::string& node : cordoned) {
      values.emplace_back(label_value(node));
    }
    selector["matchExpressions"] = json::array{
        json::object{{"key", kLabelNode}, {"operator", "NotIn"}, {"values", std::move(values)}}};
  }
  json::object metadata =
      server_metadata(settings, fmt::format("{}{}-ranks", kNamePrefix, settings.server));
  metadata["ownerReferences"] =
      json::array{owner_reference("ConfigMap", settings.root_name, settings.root_uid)};
  return {{"apiVersion", "policy/v1"},
          {"kind", "PodDisruptionBudget"},
          {"metadata", std::move(metadata)},
          {"spec", {{"minAvailable", kMoreThanThereAre}, {"selector", std::move(selector)}}}};
}

std::string server_lease_name(const PodSettings& settings) {
  return fmt::format("{}{}", kNamePrefix, settings.server);
}

json::object server_lease_manifest(const PodSettings& settings, const LeaseView& lease,
                                   WallTime renewed) {
  json::object metadata = server_metadata(settings, server_lease_name(settings));
  if (!lease.version.empty()) {
    metadata["resourceVersion"] = lease.version;
  }
  // A MicroTime, which has six digits and no fewer.
  std::string time = format_rfc3339(renewed);
  time.insert(time.size() - 1, "000");
  return {{"apiVersion", "coordination.k8s.io/v1"},
          {"kind", "Lease"},
          {"metadata", std::move(metadata)},
          {"spec",
           {{"holderIdentity", lease.holder.empty() ? json::value() : json::value(lease.holder)},
            {"leaseDurationSeconds", lease.duration_seconds},
            {"leaseTransitions", lease.transitions},
            {"renewTime", time}}}};
}

}  // namespace quad::kubernetes
