// engine/kubernetes/views/pod_volumes.h
//
// The task's volumes and the hot tier, as a pod has them: each a volume and a mount. Which volumes
// a gang may share is decided here. Pure.

#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "engine/kubernetes/views/pod_request.h"

namespace quad::kubernetes {

struct PodVolumes {
  json::array volumes;
  json::array mounts;  ///< of the rank
};

/// What of the hot tier a rank sees: its job's folder and its owner's home, each by its path within
/// the tier and the place where the rank finds it.
struct HotFolders {
  std::string job, job_place;
  std::string home, home_place;
};
HotFolders hot_folders(const PodRequest& request, const HotTier& hot);
/// All of it, for who makes these folders and runs nothing of the user's.
json::object hot_tier_mount(std::string_view place);

/// Whether `volume` can be given to a job of so many ranks at all: kInvalid or kDenied with a
/// sentence if not. `key` names it in the task: "volumes./data".
Status check_volume(const VolumeRequest& volume, std::int32_t ranks, const PodSettings& settings,
                    const std::string& home, const std::string& key);

/// The volumes and mounts of a rank: the hot tier, then the task's volumes.
Result<PodVolumes> pod_volumes(const PodRequest& request, const PodSettings& settings);

/// Ephemeral volumes that all ranks of a gang share (ReadWriteMany): claims of the attempt. Those
/// of one rank are part of its pod.
json::array shared_claims(const PodRequest& request, const PodSettings& settings);

}  // namespace quad::kubernetes
