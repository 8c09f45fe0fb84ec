// engine/kubernetes/views/pod_config.h
//
// What a pod_config may not say: what Quad's own part of a pod would break by (its command, the
// runner's volume, the labels that pods are found by), and what would give a job more of the
// cluster than the administrator permits (a privileged container, the node's files, another job's
// secrets). Pure; O(size of the config).

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
inline constexpr std::string_view kQuadFolder = "/quad";
inline constexpr std::string_view kStartFolder = "/quad-start";

/// Whose pod_config it is: the administrator's own needs no permission.
enum class ConfigOf { kTask, kAdministrator };

/// kInvalid or kDenied with a sentence that names the key below `path`, if `config` says what it
/// may not.
Status check_pod_config(const json::object& config, ConfigOf whose, const PodSettings& settings,
                        bool fixed_user, const std::string& path);

/// Likewise for custom_metadata: labels and annotations alone, none of them Quad's.
Status check_metadata(const json::object& metadata, const std::string& path);

/// Whether `path` is one of `allowed`, or lies below one. Paths that climb ("..") are never.
bool is_below(std::string_view path, const std::vector<std::string>& allowed);

}  // namespace quad::kubernetes
