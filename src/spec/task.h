// spec/task.h
//
// A task as its writer means it: plain values, every check that needs no cluster already done,
// variables filled in. What SkyPilot would print for it is in spec/parse.h (to_json). Quantities
// carry their unit in their name. Pure data; any thread.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/time.h"
#include "spec/marks.h"

namespace quad::spec {

/// As `infra`: the machine that the server runs on, a place that SkyPilot does not have.
inline constexpr std::string_view kLocalPlace = "local";

using NamedValue = std::pair<std::string, std::string>;

/// A number that may be a lower bound ("4+"). `text` is how SkyPilot would print it.
struct CpuRequest {
  std::string text;
  std::int64_t milli = 0;
  bool at_least = false;
};

struct MemoryRequest {
  std::string text;
  std::int64_t bytes = 0;  ///< per CPU if `per_cpu`
  bool at_least = false;
  bool per_cpu = false;
};

struct AcceleratorRequest {
  std::string name;        ///< as written; case is matched loosely where GPUs are known
  double count = 1;        ///< per node
  std::int64_t milli = 0;  ///< the same in thousandths of a GPU
  bool by_name = true;     ///< else by what it must have, such as 80GB+
};

struct JobRecovery {
  std::optional<std::string> strategy;  ///< in upper case
  std::int32_t max_restarts_on_errors = 0;
  std::vector<int> recover_on_exit_codes;
  json::object written;  ///< every key as it was given, for printing
};

struct Autostop {
  bool enabled = true;
  std::int64_t idle_minutes = 0;
  bool down = false;
  std::optional<std::string> wait_for;
};

struct PortRange {
  std::uint16_t first = 0;
  std::uint16_t last = 0;
};

/// A container or machine image; without a region it is for any.
struct Image {
  std::optional<std::string> region;
  std::string image;
};

struct DockerLogin {
  std::string username;
  std::string password;
  std::string server;
};

/// One alternative of what each node must have.
struct Resources {
  std::optional<std::string> cloud;   ///< "kubernetes", "slurm", "aws", …
  std::optional<std::string> region;  ///< Kubernetes: the context; Slurm: the cluster
  std::optional<std::string> zone;    ///< Slurm: the partition
  std::optional<std::string> instance_type;
  std::optional<CpuRequest> cpus;
  std::optional<MemoryRequest> memory;
  std::optional<AcceleratorRequest> accelerator;
  std::optional<json::object> accelerator_args;
  std::optional<bool> use_spot;
  std::optional<JobRecovery> job_recovery;
  std::optional<std::int64_t> disk_gigabytes;
  std::vector<Image> images;
  std::optional<std::string> docker_image;  ///< the key "docker" of an image_id mapping
  std::optional<std::string> disk_tier;
  std::optional<std::string> network_tier;
  std::optional<std::string> local_disk;  ///< "nvme:100+"
  std::optional<double> max_hourly_cost;
  std::vector<PortRange> ports;  ///< ascending, disjoint, not adjacent
  std::vector<NamedValue> labels;
  json::array disks;  ///< the cloud disks of `volumes`, checked and filled in
  std::optional<Autostop> autostop;
  std::optional<int> priority;
  std::optional<std::string> priority_class;
  std::optional<DockerLogin> docker_login;
  std::optional<std::string> docker_username_for_runpod;
  std::optional<bool> requires_fuse;
  std::optional<bool> image_managed;
  std::optional<bool> no_missing_accelerator_warnings;
  Marks marks;  ///< of this alternative's keys, as "resources.cpus" wherever it is written

  /// The image a container is started from, without "docker:"; empty if none is asked for.
  [[nodiscard]] std::optional<std::string> container_image() const;
  /// "kubernetes/ctx", "*/us-east-1"; empty if any place will do.
  [[nodiscard]] std::optional<std::string> infra() const;
  [[nodiscard]] bool on_local() const { return cloud == kLocalPlace; }
};

/// How the alternatives of a task relate.
enum class Choice {
  kOne,      ///< exactly one
  kAnyOf,    ///< the planner may take any; cheapest first
  kOrdered,  ///< in the order given
};

struct NoWorkdir {};
struct LocalWorkdir {
  std::string path;
};
struct GitWorkdir {
  std::string url;
  std::optional<std::string> ref;
};
using Workdir = std::variant<NoWorkdir, LocalWorkdir, GitWorkdir>;

/// A bucket with its way of being there.
struct Storage {
  std::optional<std::string> name;
  std::vector<std::string> sources;
  bool sources_listed = false;       ///< written as a list, even if of one
  std::optional<std::string> store;  ///< "S3", "GCS", …
  bool persistent = true;
  std::string mode = "MOUNT";       ///< MOUNT, COPY or MOUNT_CACHED
  std::optional<std::string> type;  ///< MODEL_CHECKPOINT_RO, …
  json::object mount_cached;
  json::object mount;
  std::optional<bool> sky_managed;
  std::optional<std::string> bucket_sub_path;
  bool force_delete = false;
};

struct FileMount {
  enum class Kind { kLocal, kHttp, kGit, kBucket, kStorage };
  std::string destination;
  Kind kind = Kind::kLocal;
  std::string source;                       ///< of every kind but kStorage
  std::vector<std::string> listed_sources;  ///< of a cloud disk that was given a list
  std::optional<Storage> storage;
};

/// What a git-like or bucket-like source is, by its look.
FileMount::Kind kind_of_source(std::string_view source);

struct Volume {
  std::string destination;
  std::optional<std::string> name;  ///< an existing volume
  std::optional<std::string> sub_path;
  std::optional<std::string> size;  ///< makes an ephemeral volume
  std::optional<std::string> type;
  std::optional<std::string> storage_class;
  std::optional<std::string> access_mode;
  std::optional<std::string> host_path;
  std::vector<NamedValue> labels;
};

struct Secret {
  std::string name;
  std::optional<std::string> value;       ///< none: a managed secret, resolved at launch
  std::optional<std::string> scope;       ///< personal, workspace or global
  std::optional<std::string> mount_path;  ///< as a file rather than a variable
  Mark mark;
};

struct Hook {
  std::string run;
  std::vector<std::string> events;  ///< of stop, preemption, down
  json::value timeout_seconds = 3600;
};

struct Service {
  bool is_pool = false;
  std::int64_t min_replicas = 1;
  std::optional<std::int64_t> max_replicas;
  std::optional<int> port;
  std::string readiness_path = "/";
  double initial_delay_seconds = 1200;
  double timeout_seconds = 15;
  json::object written;  ///< the whole section, checked and filled in
};

/// The `quad:` block.
enum class JobKind { kBatch, kSession, kService };
enum class Fence { kNormal, kStrict };

struct CheckpointOptions {
  std::optional<std::string> path;
  std::optional<Millis> interval;
  std::optional<int> keep;
  std::string framework = "auto";
  std::optional<std::string> marker;
};

struct ArrayRange {
  std::int64_t first = 0;
  std::int64_t last = 0;  ///< included
};

struct QuadBlock {
  JobKind kind = JobKind::kBatch;
  std::optional<CheckpointOptions> checkpoint;
  std::optional<Millis> max_duration;
  std::optional<std::string> queue;
  std::optional<bool> preemptible;
  std::vector<std::string> exclude_nodes;
  Fence fence = Fence::kNormal;
  std::vector<std::string> depends_on;  ///< job ids or names
  std::optional<ArrayRange> array;
  std::vector<std::string> notify;
  Millis stop_grace = std::chrono::seconds(30);
  bool stop_signal_to_all = false;  ///< else to the script first, to what it leaves afterwards
  json::object written;
};

struct Task {
  std::optional<std::string> name;
  std::int32_t num_nodes = 1;
  std::optional<std::string> setup;
  std::optional<std::string> run;
  std::vector<NamedValue> envs;
  std::vector<Secret> secrets;
  Workdir workdir;
  std::vector<FileMount> file_mounts;
  std::vector<Volume> volumes;
  Choice choice = Choice::kOne;
  std::vector<Resources> resources;  ///< at least one; in the file's order
  std::optional<Service> service;
  std::vector<Hook> hooks;
  json::object config;  ///< what the task overrides of the site's configuration, without hooks
  std::optional<std::string> event_callback;
  bool api_server_access = true;
  bool asks_api_server_access = false;  ///< the file says true, which is the default anyway
  json::object inputs, outputs;         ///< {uri: GB}
  std::optional<QuadBlock> quad;

  Marks marks;  ///< of all keys but those of `resources`

  // Kept only to be printed again.
  json::object volumes_written;
  std::optional<json::array> volume_mounts;
  std::optional<json::object> file_mounts_mapping;
  std::optional<json::object> metadata;

  /// The priority that all alternatives agree on.
  [[nodiscard]] int priority() const;
  /// The first alternative's; all agree on it when a job is made.
  [[nodiscard]] JobRecovery job_recovery() const;
};

}  // namespace quad::spec
