#include "server/cluster_task.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "engine/clusters.h"
#include "server/crypto.h"
#include "server/pod_wishes.h"

namespace quad::server {

namespace {

constexpr std::int64_t kTaskCpuMilli = 500;
/// A holder writes no checkpoints, and is worth bringing back each time that a node is lost; only
/// what cannot live at all is given up.
constexpr std::int32_t kHolderRecoveries = 1000;

/// What each node of it has: as it was placed, or as it would like to be.
const job::Shape& shape_of(const job::Job& holder) {
  const auto& shapes = holder.request->shapes;
  const auto chosen =
      static_cast<std::size_t>(holder.attempts.empty() ? 0 : holder.attempts.back().shape);
  return shapes[std::min(chosen, shapes.size() - 1)];
}

std::string gpus_text(const job::Shape& shape) {
  return shape.per_rank.gpus == 0
             ? std::string("no GPUs")
             : fmt::format("{}:{}", shape.gpu_model.empty() ? "GPU" : shape.gpu_model,
                           shape.per_rank.gpus);
}

}  // namespace

std::optional<job::Shape> shape_on(const ClusterTarget& cluster, const spec::Resources& resources,
                                   bool alone, Findings& findings) {
  const job::Shape& whole = shape_of(*cluster.holder);
  const auto refuse = [&](std::string key, const std::string& has, const std::string& asked) {
    std::string message = fmt::format("Cluster {} has {} on each node; the task asks for {}.",
                                      cluster.name, has, asked);
    if (alone) {
      findings.refuse(std::move(key), std::move(message),
                      "ask for less, or launch another cluster");
    } else {
      findings.warn(std::move(key), message + " This alternative is left out.");
    }
  };
  job::Shape share = share_of(whole, cluster.name);
  share.per_rank.gpus = 0;
  share.gpu_model.clear();
  if (resources.accelerator) {
    const auto gpus = static_cast<std::int32_t>((resources.accelerator->milli + 999) / 1000);
    if (gpus > whole.per_rank.gpus ||
        !same_ignoring_case(resources.accelerator->name, whole.gpu_model)) {
      refuse("resources.accelerators", gpus_text(whole),
             fmt::format("{}:{}", resources.accelerator->name, gpus));
      return std::nullopt;
    }
    share.per_rank.gpus = gpus;
    share.gpu_model = whole.gpu_model;
  }
  if (resources.cpus && resources.cpus->milli > whole.per_rank.cpu_milli) {
    refuse("resources.cpus",
           fmt::format("{:g} CPUs", static_cast<double>(whole.per_rank.cpu_milli) / 1000),
           fmt::format("{:g}", static_cast<double>(resources.cpus->milli) / 1000));
    return std::nullopt;
  }
  if (resources.memory && !resources.memory->per_cpu) {
    const auto bytes = pod_bytes(resources.memory->bytes);  // as the cluster's was asked for
    if (bytes > whole.per_rank.memory_bytes) {
      refuse("resources.memory",
             fmt::format("{:.1f} GB of memory",
                         static_cast<double>(whole.per_rank.memory_bytes) / 1e9),
             fmt::format("{:.1f}", static_cast<double>(bytes) / 1e9));
      return std::nullopt;
    }
  }
  return share;
}

void check_nodes_of(const ClusterTarget& cluster, const spec::Task& task, Findings& findings) {
  const std::int32_t has = cluster.holder->request->ranks;
  if (task.num_nodes > has) {
    findings.refuse("num_nodes",
                    fmt::format("Cluster {} has {} node{}; the task asks for {}.", cluster.name,
                                has, has == 1 ? "" : "s", task.num_nodes),
                    "ask for less, or launch another cluster");
  }
}

job::Shape share_of(const job::Shape& whole, const std::string& cluster) {
  job::Shape share = whole;
  share.per_rank.cpu_milli = std::min(kTaskCpuMilli, whole.per_rank.cpu_milli);
  share.per_rank.memory_bytes = 0;
  share.per_rank.devices.clear();  // who is in the pod has them
  share.engine = engine::cluster_engine(cluster);
  return share;
}

job::Request holder_of(const job::Request& request, const std::string& cluster,
                       const json::value& pods, json::object body, bool has_secrets,
                       const std::string& secret_key) {
  job::Request holder;
  holder.name = cluster;
  holder.owner = request.owner;
  holder.by_server_user = request.by_server_user;
  holder.kind = job::Kind::kHolder;
  holder.cluster = cluster;
  holder.ranks = request.ranks;
  holder.shapes = request.shapes;
  holder.priority = request.priority;
  holder.exclude_nodes = request.exclude_nodes;
  holder.stop_grace = request.stop_grace;
  holder.recovery.max_without_progress = kHolderRecoveries;
  body["hold"] = true;
  if (!pods.is_null()) {
    if (has_secrets) {
      body["sealed"] = seal(secret_key, request.owner, to_text(json::object{{"pods", pods}}));
    } else {
      body["pods"] = pods;
    }
  }
  holder.body = to_text(body);
  return holder;
}

std::optional<control::Autostop> autostop_of(const spec::Task& task) {
  for (const spec::Resources& one : task.resources) {
    if (one.autostop && one.autostop->enabled) {
      control::Autostop autostop;
      // As SkyPilot takes "true", which it keeps as 0.
      const std::int64_t minutes = std::max<std::int64_t>(one.autostop->idle_minutes, 1);
      autostop.idle = Millis(std::min(minutes, control::kLongestIdle.count() / 60'000) * 60'000);
      autostop.down = one.autostop->down;
      autostop.wait_for = control::wait_for_of(one.autostop->wait_for.value_or(""))
                              .value_or(control::Autostop::WaitFor::kJobsAndSsh);
      return autostop;
    }
  }
  return std::nullopt;
}

}  // namespace quad::server
