// server/engines.h
//
// The engines of a server, as its configuration names them: this machine, Kubernetes clusters, or
// both.

#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "config/config.h"
#include "engine/engine.h"
#include "engine/kubernetes/kubernetes.h"
#include "engine/kubernetes/views/pod_request.h"

namespace quad::server {

struct EngineContext {
  std::filesystem::path data_dir;  ///< absolute
  std::filesystem::path runner;
  std::string hot;  ///< this machine's hot tier
  /// Of this server alone, also where others have the same records; empty where nothing is ordered.
  std::string holder;
  std::string server_id;  ///< by which this server's objects are told from others' in a cluster
  std::string local_url;  ///< where runners of this machine find the server
  std::string url;        ///< where everybody else does
  std::uint64_t open_files = 0;  ///< that this machine's ranks may open
  std::string secret_key;        ///< with which secrets in jobs' bodies are sealed
  /// A job's body, which one that was loaded from the store does not carry. Any thread.
  std::function<Result<std::string>(const job::Job&)> body_of;
};

/// Where the ranks of an engine find its hot tier.
std::string hot_folder(const config::Config& config, const EngineContext& context,
                       const std::string& engine);

/// What the engine of a cluster is made from; an error as of make_engines().
Result<kubernetes::KubernetesOptions> cluster_options(const config::Config& config,
                                                      const config::Kubernetes& cluster,
                                                      const EngineContext& context);

/// What the engine of this name would make for the first attempt of a job that has never run: its
/// pods, and what they need but for Secrets. Empty on an engine without such objects. Nothing is
/// asked of the cluster, so GPUs are of their model's usual resource.
Result<json::array> manifests_of(const config::Config& config, const EngineContext& context,
                                 const std::string& engine,
                                 const std::shared_ptr<const job::Job>& job);
/// What pods get in each cluster, by its engine's name.
Result<std::map<std::string, kubernetes::PodSettings>> pod_settings(const config::Config& config,
                                                                    const EngineContext& context);

/// This machine first, if it is one of them: the nodes of the first engine keep plain names
/// (engine/engines.h). kInvalid or kNotFound with what to change; no cluster is connected to yet.
/// `clock` outlives the engine.
Result<std::unique_ptr<engine::Engine>> make_engines(const config::Config& config,
                                                     const EngineContext& context,
                                                     const Clock& clock);

}  // namespace quad::server
