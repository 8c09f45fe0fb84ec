#include "server/engines.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"
#include "engine/engines.h"
#include "engine/kubernetes/kubernetes.h"
#include "engine/kubernetes/views/attempt_manifest.h"
#include "engine/kubernetes/views/merge.h"
#include "engine/kubernetes/views/pod_config.h"
#include "engine/kubernetes/views/pod_manifest.h"
#include "engine/local/local.h"
#include "server/pod_wishes.h"

namespace quad::server {

namespace fs = std::filesystem;

namespace {

Result<std::unique_ptr<engine::Engine>> local_engine(const config::Config& config,
                                                     const EngineContext& context) {
  const config::Local machine = config.local.value_or(config::Local());
  engine::LocalOptions local;
  local.data_dir = context.data_dir;
  local.hot = context.hot;
  local.runner = context.runner;
  local.server_url = context.local_url;
  local.server_ca = config.tls.ca.empty() ? "" : fs::absolute(config.tls.ca).string();
  local.open_files = context.open_files;
  local.nodes = machine.nodes;
  local.gpus = machine.gpus;
  local.cpu_milli = machine.cpu_milli;
  local.memory_bytes = machine.memory_bytes;
  local.spool_bytes = static_cast<std::uint64_t>(config.spool_bytes);
  local.processes = machine.processes;
  local.environment = machine.environment;
  return engine::make_local(std::move(local));
}

/// A folder of this server's own: others may use the same storage, and number their jobs alike.
std::optional<kubernetes::HotTier> hot_tier(const config::HotTier& configured,
                                            const std::string& server_id) {
  if (!configured.shared()) {
    return std::nullopt;
  }
  kubernetes::HotTier hot;
  if (!configured.pvc.empty()) {
    hot.kind = kubernetes::HotTier::Kind::kClaim;
    hot.claim = configured.pvc;
  } else if (!configured.nfs_server.empty()) {
    hot.kind = kubernetes::HotTier::Kind::kNfs;
    hot.nfs_server = configured.nfs_server;
    hot.path = configured.nfs_path;
  } else {
    hot.kind = kubernetes::HotTier::Kind::kHostPath;
    hot.path = configured.host_path;
  }
  hot.mount = configured.mount;
  hot.folder = (fs::path(configured.mount) / ".quad" / server_id).string();
  return hot;
}

/// Later ones go before earlier ones: the administrator's for all clusters, then for this one.
Result<json::object> merged(const std::vector<json::object>& layers, const std::string& key) {
  json::object all;
  for (const json::object& layer : layers) {
    QUAD_TRY(kubernetes::merge_pod_config(all, kubernetes::without_nulls(layer), key));
  }
  return all;
}

Result<kubernetes::PodSettings> pod_settings(const config::Config& config,
                                             const config::Kubernetes& cluster,
                                             const EngineContext& context,
                                             const std::string& default_namespace) {
  kubernetes::PodSettings settings;
  settings.server = context.server_id;
  settings.namespace_name = cluster.in_namespace.empty() ? default_namespace : cluster.in_namespace;
  settings.root_name = "quad-" + settings.server;
  settings.server_url = cluster.server_url.empty() ? context.url : cluster.server_url;
  if (!config.tls.ca.empty()) {
    QUAD_ASSIGN(settings.ca, read_file(config.tls.ca, 1U << 20U));
  }
  settings.quad_image = cluster.image;
  if (settings.quad_image.empty()) {
    return error(
        ErrorCode::kInvalid,
        fmt::format("engines.{}.image is missing: the image with Quad's runner, which each "
                    "pod takes it from",
                    cluster.name));
  }
  settings.default_image =
      cluster.default_image.empty() ? config.jobs.defaults.image : cluster.default_image;
  settings.image_pull_secrets = cluster.image_pull_secrets;
  settings.hot = hot_tier(cluster.hot_tier, context.server_id);
  if (cluster.rdma) {
    settings.rdma = kubernetes::RdmaSettings{cluster.rdma->resources, cluster.rdma->networks, true,
                                             cluster.rdma->env};
  }
  settings.gpu_runtime_class = cluster.runtime_class;
  settings.priority_classes = {cluster.priority_classes.standard, cluster.priority_classes.allowed};
  settings.storage_classes = {cluster.storage_classes.standard, cluster.storage_classes.allowed};
  settings.node_selector.assign(cluster.node_selector.begin(), cluster.node_selector.end());
  settings.tolerations = cluster.tolerations;
  QUAD_ASSIGN(settings.pod_config,
              merged(cluster.pod_config, fmt::format("engines.{}.pod_config", cluster.name)));
  const std::string metadata_key = fmt::format("engines.{}.custom_metadata", cluster.name);
  QUAD_ASSIGN(settings.custom_metadata, merged(cluster.custom_metadata, metadata_key));
  QUAD_TRY(kubernetes::check_metadata(
      settings.custom_metadata, kubernetes::ConfigOf::kAdministrator, settings, metadata_key));
  settings.permissions.pod_config = cluster.allow_pod_config;
  settings.permissions.secrets = cluster.allow_secrets;
  settings.permissions.host_paths = cluster.allow_host_paths;
  settings.reserved_names = cluster.reserved_names;
  for (const auto& [name, user] : config.users) {
    if (user.uid) {  // an account of this machine says nothing about the nodes
      settings.identities[name] = {
          *user.uid, user.gid, {user.groups.begin(), user.groups.end()}, {}};
    }
  }
  settings.spool_bytes = static_cast<std::uint64_t>(config.spool_bytes);
  return settings;
}

/// Of the Secret that owns what is only shown.
constexpr std::string_view kNoUid = "00000000-0000-0000-0000-000000000000";

std::string usual_gpu_resource(std::string_view model) {
  return model.starts_with("MI")      ? "amd.com/gpu"
         : model.starts_with("Gaudi") ? "habana.ai/gaudi"
                                      : "nvidia.com/gpu";
}

}  // namespace

std::string hot_folder(const config::Config& config, const EngineContext& context,
                       const std::string& engine) {
  for (const config::Kubernetes& cluster : config.kubernetes) {
    if (cluster.name == engine) {
      return kubernetes::hot_folder(hot_tier(cluster.hot_tier, context.server_id));
    }
  }
  return context.hot;
}

Result<kubernetes::KubernetesOptions> cluster_options(const config::Config& config,
                                                      const config::Kubernetes& cluster,
                                                      const EngineContext& context) {
  kubernetes::AccessRequest request;
  request.kubeconfig = cluster.kubeconfig;
  request.context = cluster.context;
  request.in_cluster = cluster.in_cluster;
  kubernetes::KubernetesOptions options;
  options.name = cluster.name;
  auto access = kubernetes::find_access(request, net::process_environment());
  if (!access.ok()) {
    return error(access.error().code,
                 fmt::format("engines.{}: {}", cluster.name, access.error().message));
  }
  options.access = std::move(access).value();
  options.api.writes_per_second = cluster.write_rate;
  options.api.write_burst = cluster.write_burst;
  // Beside the server, a pod would be on the same side of the namespace's walls as its records.
  const std::string& own = options.access.name_space;
  QUAD_ASSIGN(options.settings,
              pod_settings(config, cluster, context, cluster.in_cluster ? own + "-jobs" : own));
  // Two engines in one namespace are two as well.
  options.holder = context.holder.empty() ? "" : context.holder + "." + cluster.name;
  options.provision_timeout = cluster.provision_timeout;
  options.out_of_service_taint = cluster.out_of_service_taint;
  options.describe = [key = context.secret_key, body_of = context.body_of](
                         const engine::StartOrder& order) -> Result<kubernetes::PodRequest> {
    QUAD_ASSIGN(const std::string body, body_of(*order.job));
    return pod_request(order, body, key);
  };
  return options;
}

Result<json::array> manifests_of(const config::Config& config, const EngineContext& context,
                                 const std::string& engine,
                                 const std::shared_ptr<const job::Job>& job) {
  json::array all;
  const auto cluster = std::find_if(config.kubernetes.begin(), config.kubernetes.end(),
                                    [&](const auto& one) { return one.name == engine; });
  if (cluster == config.kubernetes.end()) {
    return all;
  }
  QUAD_ASSIGN(const auto options, cluster_options(config, *cluster, context));
  const job::Attempt& attempt = job->attempts.back();
  for (std::size_t i = 0; i < attempt.ranks.size(); ++i) {
    engine::StartOrder order;
    order.key = {job->id, attempt.epoch, Rank(static_cast<std::int32_t>(i))};
    order.holding = attempt.ranks[i].holding;
    order.job = job;
    QUAD_ASSIGN(kubernetes::PodRequest request, options.describe(order));
    const job::Shape& shape = job->request->shapes.at(static_cast<std::size_t>(attempt.shape));
    request.gpu_resource = usual_gpu_resource(shape.gpu_model);
    if (i == 0) {
      for (json::object& one : kubernetes::attempt_manifests(request, options.settings, kNoUid)) {
        if (get_string(one, "kind") != "Secret") {
          all.push_back(std::move(one));
        }
      }
    }
    QUAD_ASSIGN(json::object pod, kubernetes::pod_manifest(request, options.settings, kNoUid));
    all.push_back(std::move(pod));
  }
  return all;
}

Result<std::map<std::string, kubernetes::PodSettings>> pod_settings(const config::Config& config,
                                                                    const EngineContext& context) {
  std::map<std::string, kubernetes::PodSettings> all;
  for (const config::Kubernetes& cluster : config.kubernetes) {
    QUAD_ASSIGN(all[cluster.name], pod_settings(config, cluster, context, "default"));
  }
  return all;
}

Result<std::unique_ptr<engine::Engine>> make_engines(const config::Config& config,
                                                     const EngineContext& context,
                                                     const Clock& clock) {
  std::vector<engine::Named> engines;
  if (config.local || config.kubernetes.empty()) {
    QUAD_ASSIGN(auto local, local_engine(config, context));
    engines.push_back({"local", std::move(local)});
  }
  for (const config::Kubernetes& cluster : config.kubernetes) {
    QUAD_ASSIGN(auto options, cluster_options(config, cluster, context));
    QUAD_ASSIGN(auto made, kubernetes::make_kubernetes(std::move(options), clock));
    engines.push_back({cluster.name, std::move(made)});
  }
  return engine::join(std::move(engines));
}

}  // namespace quad::server
