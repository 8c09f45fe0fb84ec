// engine/kubernetes/views/pod_end.h
//
// What a pod says about its rank: still starting and why it waits, running, being stopped, or ended
// and how. Joined by the engine with what it knows from elsewhere (its own orders, the node, the
// runner's connection) into observations. Pure.
//
// The best evidence of an end is the runner's own result, which it leaves as the container's
// termination message; an exit code of the container is the runner's, never the user's. A death is
// confirmed when the kubelet has told that the container ended: a pod that was force-deleted may
// still run.

#pragma once

#include <optional>
#include <string>

#include "engine/kubernetes/views/pod_view.h"
#include "job/job.h"

namespace quad::kubernetes {

/// What ended, or is ending, a pod.
enum class PodFate {
  kNone,          ///< it lives
  kResult,        ///< its runner left a result
  kVanished,      ///< its container ended and left no result
  kOutOfMemory,   ///< its container was killed for memory
  kDeleted,       ///< by somebody else than Quad
  kStopped,       ///< by Quad
  kEvicted,       ///< by its kubelet, as the node ran short
  kOverDisk,      ///< by its kubelet, as it used more disk than it asked for
  kPreempted,     ///< for a pod of higher priority
  kDrained,       ///< by the eviction API: kubectl drain, an autoscaler
  kTainted,       ///< by a NoExecute taint that it does not tolerate
  kNodeShutdown,  ///< its node shut down in good order
  kNodeGone,      ///< its node was removed from the cluster, or declared out of service
  kRefused,       ///< its kubelet would not have it
  kDeadline,      ///< it ran past activeDeadlineSeconds
  kNotInstalled,  ///< an init container failed
  kNotStarted,    ///< its image or command cannot be run
};
std::string_view to_string(PodFate fate);

struct PodState {
  enum class Kind { kStarting, kRunning, kStopping, kEnded };
  Kind kind = Kind::kStarting;
  /// Starting: what it waits for. Stopping and ended: why, as in RankEnd::detail.
  std::string words;
  /// Starting: what it waits for will not come: the rank may be given up with `end`.
  bool hopeless = false;
  PodFate fate = PodFate::kNone;
  job::Verdict verdict = job::Verdict::kNone;  ///< that the fate alone suggests
  /// Somebody else than Quad and the job itself ends or has ended it, and said so.
  std::optional<job::Taken> taken;
  std::optional<job::RankEnd> end;  ///< ended, or hopeless
};

/// `ordered`: Quad has asked for this pod's deletion. `gone`: the object is no more (a DELETED
/// event), and `pod` is the last that was seen of it.
PodState state_of(const PodView& pod, bool ordered, bool gone);

}  // namespace quad::kubernetes
