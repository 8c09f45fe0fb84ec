// engine/kubernetes/views/pod_config.h
//
// What no pod_config may say, the administrator's included: what Quad's own part of a pod would
// break by (its command, the runner's volume, the labels that pods are found by). And of a task's,
// what goes beyond the table of pod_config_rules.h. Pure; O(size of the config).

#pragma once

#include <string>

#include "base/json.h"
#include "engine/kubernetes/views/pod_request.h"

namespace quad::kubernetes {

// Names within a pod that are Quad's own; so are all volumes that begin with "quad-".
inline constexpr std::string_view kRankContainer = "rank";
inline constexpr std::string_view kInstallContainer = "quad-install";
inline constexpr std::string_view kQuadVolume = "quad";         ///< the runner and its folder
inline constexpr std::string_view kStartVolume = "quad-start";  ///< the Secret, for the installer
inline constexpr std::string_view kFilesVolume = "quad-files";  ///< the Secret's files for the rank
inline constexpr std::string_view kSharedMemoryVolume =
    "dshm";  ///< as SkyPilot's, to be merged with
inline constexpr std::string_view kVisibleGpus = "NVIDIA_VISIBLE_DEVICES";
inline constexpr std::string_view kQuadFolder = "/quad";
inline constexpr std::string_view kStartFolder = "/quad-start";
inline constexpr std::string_view kTierFolder = "/quad-hot";  ///< all of it, in the installer

/// Whose pod_config it is. The administrator's own needs no permission; a task may not touch the
/// volumes and init containers that stand in it.
enum class ConfigOf { kTask, kAdministrator };

/// kInvalid or kDenied with a sentence that names the key below `path`, if `config` says what it
/// may not.
Status check_pod_config(const json::object& config, ConfigOf whose, const PodSettings& settings,
                        bool fixed_user, const std::string& path);

/// Likewise for custom_metadata: labels and annotations alone, none of them Quad's.
Status check_metadata(const json::object& metadata, ConfigOf whose, const PodSettings& settings,
                      const std::string& path);

}  // namespace quad::kubernetes
