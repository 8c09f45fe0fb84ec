// engine/kubernetes/views/pod_view.h
//
// A Pod of the API server as Quad needs it: whose it is, where it is, what it asks for, what its
// containers do and why. Pure; a few microseconds a pod. What it means for a rank is said by
// pod_end.h.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/json.h"
#include "base/time.h"
#include "engine/kubernetes/views/node_view.h"
#include "pool/pool.h"

namespace quad::kubernetes {

struct ContainerView {
  enum class State { kUnknown, kWaiting, kRunning, kTerminated };
  std::string name;
  std::string image;
  State state = State::kUnknown;
  std::string reason;   ///< ErrImagePull, OOMKilled, Error, Completed, …
  std::string message;  ///< of a terminated one: what it left as its termination message
  std::int32_t exit_code = 0;
  std::int32_t restarts = 0;
  std::optional<WallTime> started;
  std::optional<WallTime> finished;
  std::vector<std::string> unhealthy_devices;  ///< ids, where the kubelet tells
};

struct PodView {
  std::string name;
  std::string namespace_name;
  std::string uid;
  std::optional<RankKey> rank;  ///< if it is one of this server's ranks
  std::string node;             ///< empty until it is scheduled
  std::string wanted_node;      ///< that it is pinned to; empty if it is not
  std::string phase;            ///< Pending, Running, Succeeded, Failed or Unknown
  std::string reason;           ///< of the phase: Evicted, UnexpectedAdmissionError, …
  std::string message;
  std::string address;
  pool::Resources requests;                     ///< as kube-scheduler counts them
  std::map<std::string, std::int64_t> devices;  ///< other devices that it asks for
  std::int64_t memory_limit = 0;                ///< of its rank's container; 0: none
  std::int64_t grace_seconds = 0;               ///< that its kubelet gives it to end
  std::vector<Condition> conditions;
  std::vector<ContainerView> init_containers;
  std::vector<ContainerView> containers;
  std::optional<WallTime> created;
  std::optional<WallTime> started;
  std::optional<WallTime> deleted;  ///< when it should be gone, once somebody has deleted it

  [[nodiscard]] const Condition* condition(std::string_view type) const;
  /// The container that runs the rank, and the one that brings its runner, which is an init
  /// container or stands beside it. Null if nothing is told of it.
  [[nodiscard]] const ContainerView* rank_container() const;
  [[nodiscard]] const ContainerView* installer() const;
  /// Whether it has ended for good: nothing of it runs, and it uses nothing.
  [[nodiscard]] bool finished() const;
};

/// kInvalid if this is no Pod with a name. `server` is the short id of this server;
/// `gpu_resources` are counted as whole GPUs, too.
Result<PodView> read_pod(const json::object& pod, std::string_view server,
                         const std::vector<std::string>& gpu_resources = {});

}  // namespace quad::kubernetes
