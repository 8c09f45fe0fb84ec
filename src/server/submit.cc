#include "server/submit.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <iterator>

#include "base/text.h"
#include "engine/kubernetes/views/node_view.h"
#include "engine/kubernetes/views/pod_manifest.h"
#include "server/crypto.h"
#include "server/pod_wishes.h"
#include "server/unhonoured.h"

namespace quad::server {

namespace {

/// How far local time is ahead of UTC then, in seconds.
std::int64_t utc_offset(WallTime time) {
  const std::time_t seconds = time.millis / 1000;
  std::tm parts{};
  localtime_r(&seconds, &parts);
  return parts.tm_gmtoff;
}

/// "2026-11-23-17-16-40-123000", as SkyPilot writes it in the id of a task.
std::string local_text(WallTime time, std::int64_t offset) {
  const std::time_t seconds = time.millis / 1000 + offset;
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}-{:02}-{:02}-{:02}-{:06}", parts.tm_year + 1900,
                     parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
                     time.millis % 1000 * 1000);
}

class Preparer {
 public:
  Preparer(const SubmitContext& context, Prepared& out) : context_(context), out_(out) {
    findings_.containers = !context.clusters.empty();
    findings_.cluster = context.cluster.has_value();
  }

  void add(const spec::Task& task);

 private:
  /// An alternative that fits nowhere: an error if it is the only one, else a warning, as it will
  /// not be tried.
  void refuse(bool alone, std::string key, std::string message, std::string hint = {});
  std::optional<job::Shape> shape_of(const spec::Resources& resources, bool alone);
  /// What `infra` may name here: "local and k8s/west".
  [[nodiscard]] std::string places() const;
  /// The same for each cluster that a shape may be placed in, where that makes a difference.
  [[nodiscard]] std::vector<job::Shape> for_each_engine(const job::Shape& shape,
                                                        const spec::Resources& resources) const;
  /// Whether a pod's manifest can name all of the ports, one by one.
  bool check_ports(const spec::Resources& resources, bool alone);
  /// What pods of the shape cannot have, and whether they can be at all.
  bool check_pods(const job::Request& request, const job::Shape& shape, const json::object& wishes,
                  bool alone);
  /// The device that the accelerator names, where it is none that nodes are known by: a part of a
  /// GPU ("MIG-1g.5gb"), or any other by its resource's name.
  [[nodiscard]] std::string device_of(const spec::Resources& resources,
                                      const std::string& engine) const;
  std::optional<Millis> max_duration_of(const spec::Task& task);
  json::array mounts_of(const spec::Task& task);
  void put_on_cluster(const ClusterTarget& cluster, const spec::Task& task, const json::value& pods,
                      job::Request& request);

  void check_exclusions(const spec::Task& task);

  const SubmitContext& context_;
  Prepared& out_;
  Findings findings_;
};

void Preparer::refuse(bool alone, std::string key, std::string message, std::string hint) {
  if (alone) {
    findings_.refuse(std::move(key), std::move(message), std::move(hint));
  } else {
    findings_.warn(std::move(key), message + " This alternative is left out.");
  }
}

void Preparer::check_exclusions(const spec::Task& task) {
  const spec::QuadBlock& quad = *task.quad;
  std::vector<std::string_view> known;
  for (const auto& [id, node] : context_.snapshot->pool.nodes()) {
    if (!node.spec.by_name) {
      known.push_back(id.value());
    }
  }
  for (std::size_t i = 0; i < quad.exclude_nodes.size() && !findings_.full(); ++i) {
    const std::string& name = quad.exclude_nodes[i];
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      const auto near = nearest(name, known);
      findings_.warn_at(task.marks.find(fmt::format("quad.exclude_nodes[{}]", i)),
                        "quad.exclude_nodes",
                        fmt::format("There is no node '{}'{}.", name,
                                    near ? fmt::format("; did you mean '{}'?", *near) : ""));
    }
  }
}

std::string Preparer::device_of(const spec::Resources& resources, const std::string& engine) const {
  if (!resources.accelerator) {
    return {};
  }
  for (const auto& [id, node] : context_.snapshot->pool.nodes()) {
    if (node.spec.by_name || (!engine.empty() && node.spec.engine != engine)) {
      continue;
    }
    for (const auto& [name, count] : node.spec.capacity.devices) {
      if (same_ignoring_case(name, resources.accelerator->name) ||
          same_ignoring_case(kubernetes::device_name(name), resources.accelerator->name)) {
        return name;
      }
    }
  }
  return {};
}

std::string Preparer::places() const {
  std::vector<std::string> all;
  if (context_.has_local) {
    all.emplace_back(spec::kLocalPlace);
  }
  for (const std::string& cluster : context_.clusters) {
    all.push_back("k8s/" + cluster);
  }
  return join_words({all.begin(), all.end()});
}

std::optional<job::Shape> Preparer::shape_of(const spec::Resources& resources, bool alone) {
  if (is_elsewhere(resources)) {
    refuse(
        alone, place_key(resources),
        context_.clusters.empty()
            ? fmt::format("This server runs jobs on its own machine and has no '{}'.",
                          *resources.infra())
            : fmt::format("There is no '{}' here; jobs run on {}.", *resources.infra(), places()),
        "leave infra out");
    return std::nullopt;
  }
  job::Shape shape;
  if (resources.on_local()) {
    if (!context_.has_local) {
      refuse(alone, place_key(resources),
             fmt::format("This server's own machine runs no jobs; they run on {}.", places()));
      return std::nullopt;
    }
    shape.engine = spec::kLocalPlace;
  }
  if (is_kubernetes(resources) && resources.region && !context_.clusters.empty()) {
    const std::vector<std::string_view> names(context_.clusters.begin(), context_.clusters.end());
    if (std::find(names.begin(), names.end(), *resources.region) == names.end()) {
      const auto near = nearest(*resources.region, names);
      refuse(alone, place_key(resources),
             fmt::format("There is no Kubernetes cluster '{}' here; there are {}.",
                         *resources.region, join_words(names)),
             near ? fmt::format("did you mean {}?", *near) : "");
      return std::nullopt;
    }
    shape.engine = *resources.region;
  }
  std::int64_t biggest_cpus = 0;
  std::int64_t biggest_memory = 0;
  std::vector<std::string_view> models;
  std::int32_t most_gpus = 0;
  for (const auto& [id, node] : context_.snapshot->pool.nodes()) {
    if (node.spec.by_name || (!shape.engine.empty() && node.spec.engine != shape.engine)) {
      continue;
    }
    biggest_cpus = std::max(biggest_cpus, node.spec.capacity.cpu_milli);
    biggest_memory = std::max(biggest_memory, node.spec.capacity.memory_bytes);
    if (node.spec.capacity.gpus > 0 &&
        std::find(models.begin(), models.end(), node.spec.gpu_model) == models.end()) {
      models.push_back(node.spec.gpu_model);
    }
  }
  if (const std::string device = device_of(resources, shape.engine); !device.empty()) {
    const std::int64_t count = (resources.accelerator->milli + 999) / 1000;
    shape.per_rank.devices[device] = count;
    biggest_cpus = 0;
    biggest_memory = 0;
    std::int64_t most = 0;
    for (const auto& [id, node] : context_.snapshot->pool.nodes()) {
      const auto has = node.spec.capacity.devices.find(device);
      if (!node.spec.by_name && has != node.spec.capacity.devices.end() &&
          (shape.engine.empty() || node.spec.engine == shape.engine)) {
        most = std::max(most, has->second);
        biggest_cpus = std::max(biggest_cpus, node.spec.capacity.cpu_milli);
        biggest_memory = std::max(biggest_memory, node.spec.capacity.memory_bytes);
      }
    }
    if (count > most) {
      refuse(alone, "resources.accelerators",
             fmt::format("No node has {} {}; the most that one has is {}.", count,
                         resources.accelerator->name, most));
      return std::nullopt;
    }
  } else if (resources.accelerator) {
    shape.per_rank.gpus = static_cast<std::int32_t>((resources.accelerator->milli + 999) / 1000);
    const auto known = std::find_if(models.begin(), models.end(), [&](std::string_view model) {
      return same_ignoring_case(model, resources.accelerator->name);
    });
    if (known == models.end()) {
      const auto near = nearest(resources.accelerator->name, models);
      refuse(alone, "resources.accelerators",
             fmt::format("No node has '{}' GPUs; there are {}.", resources.accelerator->name,
                         models.empty() ? "none at all" : join_words(models)),
             near ? fmt::format("did you mean {}?", *near) : "");
      return std::nullopt;
    }
    shape.gpu_model = *known;
    // Only the nodes with this GPU count from here on.
    biggest_cpus = 0;
    biggest_memory = 0;
    for (const auto& [id, node] : context_.snapshot->pool.nodes()) {
      if (!node.spec.by_name && node.spec.gpu_model == shape.gpu_model &&
          (shape.engine.empty() || node.spec.engine == shape.engine)) {
        most_gpus = std::max(most_gpus, node.spec.capacity.gpus);
        biggest_cpus = std::max(biggest_cpus, node.spec.capacity.cpu_milli);
        biggest_memory = std::max(biggest_memory, node.spec.capacity.memory_bytes);
      }
    }
    if (shape.per_rank.gpus > most_gpus) {
      refuse(alone, "resources.accelerators",
             fmt::format("No node has {} {} GPUs; the largest has {}.", shape.per_rank.gpus,
                         shape.gpu_model, most_gpus));
      return std::nullopt;
    }
  }
  const config::JobDefaults& usual = context_.jobs.defaults;
  const std::int64_t usual_cpus =
      shape.per_rank.gpus > 0 ? usual.gpu_cpu_milli * shape.per_rank.gpus : usual.cpu_milli;
  const std::int64_t usual_memory =
      shape.per_rank.gpus > 0 ? usual.gpu_memory_bytes * shape.per_rank.gpus : usual.memory_bytes;
  // A default never makes a job impossible; what the user asked for may.
  shape.per_rank.cpu_milli =
      resources.cpus ? resources.cpus->milli : std::min(usual_cpus, biggest_cpus);
  const std::int64_t per_cpu =
      resources.memory && resources.memory->per_cpu ? shape.per_rank.cpu_milli : 1000;
  shape.per_rank.memory_bytes = resources.memory
                                    ? pod_bytes(resources.memory->bytes * per_cpu / 1000)
                                    : std::min(usual_memory, biggest_memory);
  const std::string which =
      shape.gpu_model.empty() ? "No node" : fmt::format("No node with {} GPUs", shape.gpu_model);
  if (shape.per_rank.cpu_milli > biggest_cpus) {
    refuse(alone, "resources.cpus",
           fmt::format("{} has {:g} CPUs; the largest has {:g}.", which,
                       static_cast<double>(shape.per_rank.cpu_milli) / 1000,
                       static_cast<double>(biggest_cpus) / 1000));
    return std::nullopt;
  }
  if (shape.per_rank.memory_bytes > biggest_memory) {
    refuse(alone, "resources.memory",
           fmt::format("{} has {:.1f} GB of memory; the largest has {:.1f}.", which,
                       static_cast<double>(shape.per_rank.memory_bytes) / 1e9,
                       static_cast<double>(biggest_memory) / 1e9));
    return std::nullopt;
  }
  return shape;
}

std::vector<job::Shape> Preparer::for_each_engine(const job::Shape& shape,
                                                  const spec::Resources& resources) const {
  const bool rdma = resources.network_tier == "best" && context_.pods != nullptr &&
                    std::any_of(context_.pods->begin(), context_.pods->end(),
                                [](const auto& one) { return one.second.rdma.has_value(); });
  // With infra: k8s, any of the clusters will do, and nothing else.
  const bool clusters_alone =
      is_kubernetes(resources) && shape.engine.empty() && !context_.clusters.empty();
  if (!rdma && !(clusters_alone && context_.has_local)) {
    return {shape};
  }
  std::vector<job::Shape> shapes;
  std::vector<std::string> engines = context_.clusters;
  if (context_.has_local && !clusters_alone) {
    engines.insert(engines.begin(), "local");
  }
  for (const std::string& engine : engines) {
    if (!shape.engine.empty() && shape.engine != engine) {
      continue;
    }
    job::Shape one = shape;
    one.engine = engine;
    if (const auto pods = context_.pods->find(engine);
        pods != context_.pods->end() && pods->second.rdma) {
      for (const auto& [name, count] : pods->second.rdma->resources) {
        one.per_rank.devices[name] = count;
      }
    }
    shapes.push_back(std::move(one));
  }
  return shapes;
}

bool Preparer::check_ports(const spec::Resources& resources, bool alone) {
  constexpr std::int64_t kMost = 1'000;
  std::int64_t count = 0;
  for (const spec::PortRange& range : resources.ports) {
    count += range.last - range.first + 1;
  }
  if (count > kMost && !context_.clusters.empty()) {
    refuse(alone, "resources.ports",
           fmt::format("A pod can name {} ports at most, not {}.", kMost, count));
    return false;
  }
  return true;
}

bool Preparer::check_pods(const job::Request& request, const job::Shape& shape,
                          const json::object& wishes, bool alone) {
  if (context_.pods == nullptr) {
    return true;
  }
  std::optional<Error> refused;
  bool possible = shape.engine.empty() ? context_.has_local : shape.engine == "local";
  for (const auto& [engine, settings] : *context_.pods) {
    if (!shape.engine.empty() && shape.engine != engine) {
      continue;
    }
    kubernetes::PodRequest pod = pod_request(request, shape, wishes);
    pod.gpu_resource = "nvidia.com/gpu";  // any will do to see whether the rest can be
    if (const auto manifest = kubernetes::pod_manifest(pod, settings, ""); !manifest.ok()) {
      refused = refused ? refused : manifest.error();
      continue;
    }
    possible = true;
    for (const auto& [key, sentence] : kubernetes::pod_warnings(pod, settings)) {
      findings_.warn(key, sentence);
    }
  }
  if (!possible && refused) {
    refuse(alone, refused->where.empty() ? "resources" : refused->where, refused->message);
  } else if (refused) {
    findings_.warn(refused->where, refused->message + " Clusters where that holds are left out.");
  }
  return possible;
}

std::optional<Millis> Preparer::max_duration_of(const spec::Task& task) {
  const auto asked = task.quad ? task.quad->max_duration : std::nullopt;
  const auto& most = context_.jobs.limits.max_duration;
  if (asked && most && *asked > *most) {
    findings_.refuse("quad.max_duration",
                     fmt::format("A job may run for at most {} here, not {}.",
                                 format_duration(*most), format_duration(*asked)));
  }
  return asked ? asked : context_.jobs.defaults.max_duration;
}

json::array Preparer::mounts_of(const spec::Task& task) {
  json::array mounts;
  for (const spec::FileMount& mount : task.file_mounts) {
    const std::string key = "file_mounts." + mount.destination;
    json::object one;
    one["dst"] = mount.destination;
    switch (mount.kind) {
      case spec::FileMount::Kind::kLocal: {
        const auto blob = context_.mount_blobs.find(mount.destination);
        if (blob == context_.mount_blobs.end()) {
          if (context_.uploads_follow) {
            continue;
          }
          findings_.refuse(
              key,
              fmt::format("'{}' was not uploaded with the task; launch it with the quad command.",
                          mount.source));
          continue;
        }
        one["kind"] = "blob";
        one["blob"] = blob->second;
        const auto is_file = context_.mount_is_file.find(mount.destination);
        one["is_file"] = is_file != context_.mount_is_file.end() && is_file->second;
        break;
      }
      case spec::FileMount::Kind::kHttp:
        one["kind"] = "http";
        one["url"] = mount.source;
        break;
      case spec::FileMount::Kind::kGit:
        one["kind"] = "git";
        one["url"] = mount.source;
        one["ref"] = "";
        break;
      case spec::FileMount::Kind::kBucket:
      case spec::FileMount::Kind::kStorage:
        findings_.refuse(key, fmt::format("Buckets are not brought to jobs yet{}; copy the data to "
                                          "a local or http(s) source.",
                                          mount.source.empty() ? "" : " (" + mount.source + ")"));
        continue;
    }
    mounts.push_back(std::move(one));
  }
  return mounts;
}

void Preparer::put_on_cluster(const ClusterTarget& cluster, const spec::Task& task,
                              const json::value& pods, job::Request& request) {
  request.cluster = cluster.name;
  out_.autostop = autostop_of(task);
  if (cluster.holder == nullptr && !request.shapes.empty()) {
    out_.holder = holder_of(request, cluster.name, pods,
                            {{"task", spec::to_json(task, spec::Redact::kYes)},
                             {"utc_offset", utc_offset(context_.now)}},
                            !task.secrets.empty(), context_.secret_key);
    for (job::Shape& shape : request.shapes) {
      shape = share_of(shape, cluster.name);
    }
  }
  request.exclude_nodes.clear();  // the cluster is where it is
}

void Preparer::add(const spec::Task& task) {
  check_task(task, findings_);
  for (spec::Diagnostic& problem : spec::launch_errors(task)) {
    findings_.errors.push_back(std::move(problem));
  }
  job::Request request;
  request.owner = context_.owner;
  request.name = task.name.value_or("job");
  request.ranks = task.num_nodes;
  request.priority = task.priority();
  const ClusterTarget* cluster = context_.cluster ? &*context_.cluster : nullptr;
  const bool on_known = cluster != nullptr && cluster->holder != nullptr;
  if (on_known) {
    check_nodes_of(*cluster, task, findings_);
  }
  json::array pods;  // one for each shape
  for (const spec::Resources& one : task.resources) {
    check_resources(one, findings_);
    const bool alone = task.resources.size() == 1;
    if (on_known) {
      if (auto share = shape_on(*cluster, one, alone, findings_)) {
        request.shapes.push_back(std::move(*share));
      }
      continue;
    }
    const auto shape = shape_of(one, alone);
    if (!shape) {
      continue;
    }
    if (!check_ports(one, alone)) {
      continue;
    }
    const json::object wishes = context_.clusters.empty() ? json::object() : pod_wishes(task, one);
    for (job::Shape& each : for_each_engine(*shape, one)) {
      each.per_rank.devices.merge(devices_of(task));
      if (check_pods(request, each, wishes, alone)) {
        request.shapes.push_back(std::move(each));
        pods.push_back(wishes);
      }
    }
  }
  findings_.look_at(task.marks);
  if (request.shapes.empty() && findings_.errors.empty()) {
    findings_.refuse("resources",
                     on_known
                         ? fmt::format("None of the alternatives fits cluster {}.", cluster->name)
                         : "None of the alternatives fits any node here.");
  }
  request.max_duration = max_duration_of(task);
  const spec::JobRecovery recovery = task.job_recovery();
  request.recovery.max_restarts_on_errors = recovery.max_restarts_on_errors;
  request.recovery.recover_on_exit_codes.assign(recovery.recover_on_exit_codes.begin(),
                                                recovery.recover_on_exit_codes.end());
  json::object checkpoint;
  if (task.quad) {
    request.stop_grace = task.quad->stop_grace;
    request.recovery.strict_fence = task.quad->fence == spec::Fence::kStrict;
    check_exclusions(task);
    for (const std::string& node : task.quad->exclude_nodes) {
      request.exclude_nodes.emplace_back(node);
    }
    if (task.quad->checkpoint) {
      const spec::CheckpointOptions& options = *task.quad->checkpoint;
      checkpoint["path"] = options.path.value_or("");
      checkpoint["keep"] = options.keep.value_or(0);
      checkpoint["framework"] = options.framework;
      checkpoint["marker"] = options.marker.value_or("");
    }
  }
  json::object body;
  const bool exec = cluster != nullptr && cluster->exec;
  body["setup"] = exec ? "" : task.setup.value_or("");
  body["run"] = task.run.value_or("");
  json::array envs;
  for (const auto& [name, value] : task.envs) {
    envs.push_back(json::array{name, value});
  }
  body["envs"] = std::move(envs);
  json::array secrets;
  for (const spec::Secret& secret : task.secrets) {
    secrets.push_back(json::array{secret.name, secret.value.value_or("")});
  }
  if (std::holds_alternative<spec::LocalWorkdir>(task.workdir)) {
    if (context_.workdir_blob.empty() && !context_.uploads_follow) {
      findings_.refuse(
          "workdir",
          "The work directory was not uploaded with the task; launch it with the quad command.");
    }
    body["workdir"] = json::object{{"blob", context_.workdir_blob}};
  } else if (const auto* git = std::get_if<spec::GitWorkdir>(&task.workdir)) {
    body["workdir"] = json::object{{"git", git->url}, {"ref", git->ref.value_or("")}};
  }
  body["mounts"] = exec ? json::array() : mounts_of(task);
  if (cluster != nullptr) {
    put_on_cluster(*cluster, task, context_.clusters.empty() ? json::value() : json::value(pods),
                   request);
  } else if (!context_.clusters.empty()) {
    body["pods"] = std::move(pods);
  }
  if (!secrets.empty()) {
    // Their values may stand in addresses as well: all that they were filled into is sealed with
    // them.
    json::object sealed{{"secrets", std::move(secrets)}};
    for (const std::string_view part : {"workdir", "mounts", "pods"}) {
      if (const json::value* value = body.if_contains(part)) {
        sealed[part] = *value;
        body.erase(part);
      }
    }
    body["sealed"] = seal(context_.secret_key, context_.owner, to_text(sealed));
  }
  body["checkpoint"] = std::move(checkpoint);
  if (task.quad && task.quad->stop_signal_to_all) {
    body["stop_signal_to"] = "all";
  }
  body["utc_offset"] = utc_offset(context_.now);
  body["task"] = spec::to_json(task, spec::Redact::kYes);
  request.body = to_text(body);
  out_.requests.push_back(std::move(request));
  std::move(findings_.errors.begin(), findings_.errors.end(), std::back_inserter(out_.errors));
  std::move(findings_.warnings.begin(), findings_.warnings.end(),
            std::back_inserter(out_.warnings));
  findings_.errors.clear();
  findings_.warnings.clear();
}

}  // namespace

Prepared prepare(const spec::TaskSet& set, const SubmitContext& context) {
  Prepared out;
  out.warnings = set.warnings;
  if (set.tasks.size() > 1 || set.execution == spec::TaskSet::Execution::kParallel) {
    const bool group = set.execution == spec::TaskSet::Execution::kParallel;
    // Of a pipeline, the second task is what is too much.
    const spec::Mark mark = group ? set.header.find("execution") : set.tasks[1].marks.find("");
    out.errors.push_back(
        {.message = group ? "Job groups cannot be launched yet; launch their tasks one by one."
                          : "Pipelines cannot be launched yet; launch their tasks one by one.",
         .key = group ? "execution" : "",
         .line = mark.line,
         .column = mark.column});
    return out;
  }
  Preparer preparer(context, out);
  for (const spec::Task& task : set.tasks) {
    preparer.add(task);
  }
  return out;
}

Result<json::object> open_body(std::string_view text, const std::string& owner,
                               const std::string& secret_key) {
  QUAD_ASSIGN(json::object body, parse_json_object(text));
  if (const std::string sealed(get_string(body, "sealed")); !sealed.empty()) {
    QUAD_ASSIGN(const std::string plain, open_sealed(secret_key, owner, sealed));
    QUAD_ASSIGN(json::object parts, parse_json_object(plain));
    for (auto& part : parts) {
      body[part.key()] = std::move(part.value());
    }
  }
  return body;
}

Result<json::object> make_order(const job::Job& job, std::string_view body_text, const RankKey& key,
                                const std::string& secret_key, const std::string& hot) {
  QUAD_ASSIGN(json::object body, open_body(body_text, job.request->owner, secret_key));
  const job::Attempt* attempt = job.live();
  if (attempt == nullptr || attempt->epoch != key.epoch) {
    return error(ErrorCode::kNotFound, "The attempt is over");
  }
  json::object order;
  order["type"] = "order";
  order["num_ranks"] = job.request->ranks;
  json::array ips;
  json::array ports;
  for (const job::RankRecord& rank : attempt->ranks) {
    ips.emplace_back(rank.address);
    ports.emplace_back(rank.port);
  }
  order["ips"] = std::move(ips);
  order["ports"] = std::move(ports);
  const std::string& cluster = job.request->cluster;
  // As it was when the job was submitted: this server may run in another time zone than that one.
  // Records from before that was kept have none.
  const std::int64_t offset = get_int(body, "utc_offset", utc_offset(job.submitted_at));
  order["task_id"] = fmt::format(
      "sky-{}{}_{}_{}{}", cluster.empty() ? "managed-" : "", local_text(job.submitted_at, offset),
      cluster.empty() ? job.request->name : cluster, job.id.value(), cluster.empty() ? "-0" : "");
  order["user"] = job.request->owner;
  order["name"] = job.request->name;
  order["cluster_info"] = json::object{
      {"cluster_name",
       cluster.empty() ? fmt::format("{}-{}", job.request->name, job.id.value()) : cluster},
      {"cloud", "Local"},
      {"region", "local"},
      {"zone", nullptr}};
  const auto rank = static_cast<std::size_t>(key.rank.value());
  const pool::Resources& held = attempt->ranks[rank].holding.amount;
  std::int64_t num_gpus = held.gpus;
  for (const auto& [name, count] : held.devices) {
    num_gpus += kubernetes::is_gpu_part(name) ? count : 0;
  }
  order["num_gpus"] = num_gpus;
  order["setup"] = get_string(body, "setup");
  order["run"] = get_string(body, "run");
  order["envs"] = body.contains("envs") ? body.at("envs") : json::array();
  order["secrets"] = body.contains("secrets") ? body.at("secrets") : json::array();
  order["workdir"] = body.contains("workdir") ? body.at("workdir") : json::value(nullptr);
  order["mounts"] = body.contains("mounts") ? body.at("mounts") : json::array();
  if (get_bool(body, "hold")) {
    order["hold"] = true;
  }
  order["stop_grace_ms"] = job.request->stop_grace.count();
  order["stop_signal_to"] = get_string(body, "stop_signal_to", "main");
  json::object checkpoint = body.contains("checkpoint") && body.at("checkpoint").is_object()
                                ? body.at("checkpoint").get_object()
                                : json::object();
  checkpoint["job_dir"] = fmt::format("{}/{}", hot, job.id.value());
  checkpoint["fence_wait_ms"] = attempt->fence_wait.count();
  checkpoint["lease_ms"] = attempt->lease.count();
  checkpoint["max_epoch"] = key.epoch.value();
  order["checkpoint"] = std::move(checkpoint);
  return order;
}

json::object make_go(const job::Job& job, const RankKey& /*key*/) {
  json::object go;
  go["type"] = "go";
  const job::Attempt* attempt = job.live();
  if (attempt == nullptr) {
    return go;
  }
  json::array ips;
  for (const job::RankRecord& rank : attempt->ranks) {
    ips.emplace_back(rank.address);
  }
  go["ips"] = std::move(ips);
  go["master_addr"] = attempt->ranks.front().address;
  go["master_port"] = attempt->ranks.front().port;
  go["resume_from"] = attempt->resume ? attempt->resume->path : "";
  go["resume_step"] = attempt->resume ? attempt->resume->step : -1;
  return go;
}

}  // namespace quad::server
