// config/config.h
//
// The server's configuration: one YAML file, and the flags of `quad serve` over it, become one
// checked value. A flag goes before the file, the file before the default; each setting remembers
// where it is from. Every fault is found at once, with its key, place and nearest spelling, as in a
// task file (spec/diagnostic.h). Pure, any thread, well under a millisecond for a usual file;
// config/file.h reads the file itself. docs/configuration.md is this for people.
//
// Sizes are in GB of 10^9 bytes, as nodes and pods count them.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/time.h"
#include "spec/diagnostic.h"
#include "spec/node.h"

namespace quad::config {

struct Tls {
  std::string certificate, key;  ///< PEM files; both, or neither: then there is no TLS
  std::string ca;  ///< PEM file of the authority that signed it, for runners; empty: the machine's
};

/// The storage that all nodes of an engine share: homes and checkpoints.
struct HotTier {
  std::string host_path;
  std::string nfs_server, nfs_path;
  std::string pvc;
  std::string mount;  ///< where ranks see it

  [[nodiscard]] bool shared() const {
    return !host_path.empty() || !nfs_server.empty() || !pvc.empty();
  }
};

/// What a task gets that asks for nothing.
struct JobDefaults {
  std::string image;           ///< where ranks run in containers; empty: none
  std::int64_t cpu_milli = 0;  ///< without GPUs
  std::int64_t memory_bytes = 0;
  std::int64_t gpu_cpu_milli = 0;  ///< for each GPU
  std::int64_t gpu_memory_bytes = 0;
  std::optional<Millis> max_duration;
};

struct JobLimits {
  std::optional<Millis> max_duration;     ///< of any job; also of those that ask for none
  std::int64_t active_per_user = 10'000;  ///< jobs that wait or run
};

struct Jobs {
  JobDefaults defaults;
  JobLimits limits;
};

/// Who a user's ranks run as: an account of the machine, or numbers. One of the two.
struct User {
  std::string account;               ///< of the machine
  std::optional<std::uint32_t> uid;  ///< else this one
  std::uint32_t gid = 0;
  std::vector<std::uint32_t> groups;  ///< the supplementary ones
};

/// This machine, as it is or divided into pretend nodes.
struct Local {
  int nodes = 0;  ///< pretend nodes; 0: as it is
  std::string gpus;
  std::int64_t cpu_milli = 0;     ///< 0: as the machine
  std::int64_t memory_bytes = 0;  ///< 0: as the machine
  /// Those that users get who have no account on this machine.
  std::uint32_t first_reserved_uid = 0, last_reserved_uid = 0;
  int processes = 0;  ///< of a rank, threads included; 0: the engine's own default
  std::vector<std::string> environment;  ///< variables of the server's that jobs get too
};

/// Which of the cluster's objects a task may name, and which it gets.
struct Choice {
  std::string standard;              ///< empty: the cluster's own default
  std::vector<std::string> allowed;  ///< empty: all
};

struct Rdma {
  std::vector<std::pair<std::string, std::int64_t>> resources;  ///< of each rank: name, count
  std::string networks;  ///< the annotation k8s.v1.cni.cncf.io/networks; empty: none
  std::vector<std::pair<std::string, std::string>> env;
};

struct Kubernetes {
  std::string name;          ///< of the engine: what stands after k8s/ in `infra`
  bool in_cluster = false;   ///< by the server's own service account; else by kubeconfig
  std::string kubeconfig;    ///< empty: KUBECONFIG, else ~/.kube/config
  std::string context;       ///< empty: the file's current one
  std::string in_namespace;  ///< empty: the context's, or the server's own
  std::string image;         ///< Quad's own, with the runner; empty (in_cluster): the server's own
  std::string default_image;
  std::string server_url;  ///< where pods reach the server; empty (in_cluster): its Service
  Choice storage_classes, priority_classes;
  std::vector<std::string> allow_host_paths;  ///< these folders, and all below them
  std::vector<std::string> allow_pod_config;  ///< key paths: "spec.hostNetwork"
  std::vector<std::string> allow_secrets;
  std::vector<std::string> reserved_names;  ///< of claims, Secrets and ConfigMaps
  std::string runtime_class;
  std::map<std::string, std::string> node_selector;
  json::array tolerations;
  /// Each is merged over the one before, and the task's own over the last.
  std::vector<json::object> pod_config, custom_metadata;
  std::optional<Rdma> rdma;
  std::vector<std::string> image_pull_secrets;
  double write_rate = 0;  ///< writes to the API server in a second
  int write_burst = 0;
  bool out_of_service_taint = false;
  std::optional<Millis> provision_timeout;  ///< empty: for as long as it takes
  std::string autoscaler;                   ///< empty: none
  HotTier hot_tier;
};

struct Config {
  std::string listen;
  int port = -1;  ///< -1: as last time, else any free one; 0: any free one
  std::string url;
  Tls tls;
  bool runners_over_tcp = false;
  Millis node_lost_after{0}, suspect_after{0}, strict_lease{0};
  std::int64_t spool_bytes = 0;
  HotTier hot_tier;
  Jobs jobs;
  std::map<std::string, User> users;
  std::optional<Local> local;
  std::vector<Kubernetes> kubernetes;
};

/// One value as it counts, and where it is from.
struct Setting {
  enum class Layer { kDefault, kFile, kFlag };

  std::string key;      ///< "engines.west.write_rate"
  std::string pattern;  ///< as keys.h names it: "engines.NAME.write_rate"
  spec::Node value;     ///< null: not set
  Layer layer = Layer::kDefault;
  std::string flag;  ///< of kFlag: "--port"
};

/// What a flag says over the file.
struct Override {
  std::string key;
  spec::Node value;
  std::string flag;
};

struct Loaded {
  Config config;                  ///< to be used only if there are no errors
  std::vector<Setting> settings;  ///< in the order of the grammar
  std::vector<spec::Diagnostic> errors, warnings;

  [[nodiscard]] bool ok() const { return errors.empty(); }
};

/// Never fails otherwise than by `errors`. An empty text is a file that says nothing. Relative
/// paths in it begin at `folder`, the file's own; those of flags are left as they are.
Loaded read_config(std::string_view yaml, const std::vector<Override>& overrides = {},
                   std::string_view folder = {});

/// What counts where nothing is said.
const Config& default_config();

/// The setting's value as it may be shown: passwords in addresses, and values of variables whose
/// name tells of a secret, are "<redacted>".
json::value shown_value(const Setting& setting);
/// Whether a variable of this name holds a secret, such as HF_TOKEN.
bool is_secret_name(std::string_view name);

}  // namespace quad::config
