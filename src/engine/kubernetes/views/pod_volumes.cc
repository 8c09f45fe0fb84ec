#include "engine/kubernetes/views/pod_volumes.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "engine/kubernetes/views/permitted.h"
#include "engine/kubernetes/views/pod_config.h"
#include "engine/kubernetes/views/pod_names.h"
#include "engine/kubernetes/views/quantity.h"

namespace quad::kubernetes {

namespace {

constexpr std::string_view kHotVolume = "quad-hot";

bool has_mode(const VolumeRequest& volume, std::string_view mode) {
  return std::find(volume.access_modes.begin(), volume.access_modes.end(), mode) !=
         volume.access_modes.end();
}

/// An ephemeral volume that is one for all ranks, as its access mode says.
bool is_shared(const VolumeRequest& volume, std::int32_t ranks) {
  return volume.kind == VolumeRequest::Kind::kEphemeral && ranks > 1 &&
         has_mode(volume, "ReadWriteMany");
}

std::string shared_claim_name(const PodRequest& request, const PodSettings& settings,
                              std::size_t index) {
  return fmt::format("{}-volume-{}",
                     attempt_name(settings.server, request.key.job, request.key.epoch), index);
}

/// The absolute path of "/data" or "~/data"; empty if there is no home to lie in.
std::string absolute(const std::string& destination, const std::string& home) {
  if (destination == "~" || destination.starts_with("~/")) {
    return home.empty() ? std::string() : home + destination.substr(1);
  }
  return destination;
}

json::object claim_spec(const VolumeRequest& volume, const PodSettings& settings) {
  json::array modes(volume.access_modes.begin(), volume.access_modes.end());
  if (modes.empty()) {
    modes.emplace_back("ReadWriteOnce");
  }
  json::object spec{
      {"accessModes", std::move(modes)},
      {"resources", {{"requests", {{"storage", byte_quantity(volume.size_bytes)}}}}},
  };
  if (const std::string& name =
          volume.storage_class.empty() ? settings.storage_classes.standard : volume.storage_class;
      !name.empty()) {
    spec["storageClassName"] = name;
  }
  return spec;
}

json::object labels_of(const VolumeRequest& volume) {
  json::object labels{{"app.kubernetes.io/managed-by", "quad"}};
  for (const auto& [key, value] : volume.labels) {
    labels[key] = value;
  }
  return labels;
}

/// The allowed folder of the nodes that `folder` lies in, the longest.
std::string_view open_folder_of(const std::string& folder, const PodSettings& settings) {
  std::string_view found;
  for (const std::string& one : settings.permissions.host_paths) {
    if (is_below(folder, {one}) && one.size() > found.size()) {
      found = one;
    }
  }
  return found;
}

json::object volume_source(const PodRequest& request, const PodSettings& settings,
                           std::size_t index) {
  const VolumeRequest& volume = request.volumes[index];
  switch (volume.kind) {
    case VolumeRequest::Kind::kHostPath:
      return {
          {"hostPath", {{"path", open_folder_of(volume.source, settings)}, {"type", "Directory"}}}};
    case VolumeRequest::Kind::kEphemeral:
      if (is_shared(volume, request.ranks)) {
        return {{"persistentVolumeClaim",
                 {{"claimName", shared_claim_name(request, settings, index)}}}};
      }
      return {{"ephemeral",
               {{"volumeClaimTemplate",
                 {{"metadata", {{"labels", labels_of(volume)}}},
                  {"spec", claim_spec(volume, settings)}}}}}};
    case VolumeRequest::Kind::kClaim:
      break;
  }
  return {{"persistentVolumeClaim", {{"claimName", volume.source}}}};
}

json::object hot_source(const HotTier& hot) {
  switch (hot.kind) {
    case HotTier::Kind::kNfs:
      return {{"nfs", {{"server", hot.nfs_server}, {"path", hot.path}}}};
    case HotTier::Kind::kHostPath:
      return {{"hostPath", {{"path", hot.path}, {"type", "Directory"}}}};
    case HotTier::Kind::kClaim:
      break;
  }
  return {{"persistentVolumeClaim", {{"claimName", hot.claim}}}};
}

/// The path `inner` from `outer`, above it: ".quad/1a2b3c4d".
std::string path_within(std::string_view inner, std::string_view outer) {
  std::string_view rest = inner.substr(std::min(outer.size(), inner.size()));
  while (rest.starts_with('/')) {
    rest.remove_prefix(1);
  }
  return std::string(rest);
}

json::object mount_of(std::string_view name, std::string_view path, std::string_view sub_path,
                      bool read_only = false) {
  json::object mount{{"name", name}, {"mountPath", path}};
  if (!sub_path.empty()) {
    mount["subPath"] = sub_path;
  }
  if (read_only) {
    mount["readOnly"] = true;
  }
  return mount;
}

void add(PodVolumes& out, const std::string& name, json::object source, std::string_view path,
         std::string_view sub_path, bool read_only) {
  source["name"] = name;
  out.volumes.push_back(std::move(source));
  out.mounts.push_back(mount_of(name, path, sub_path, read_only));
}

}  // namespace

Status check_volume(const VolumeRequest& volume, std::int32_t ranks, const PodSettings& settings,
                    const std::string& home, const std::string& key) {
  const auto refuse = [&](std::string message, ErrorCode code = ErrorCode::kInvalid) {
    return Status(error(code, std::move(message), key));
  };
  const std::string place = absolute(volume.destination, home);
  if (place.empty()) {
    return refuse(
        fmt::format("{}: the rank's home is made by the runner, after volumes are mounted; "
                    "mount the volume at an absolute path such as /data.",
                    key));
  }
  if (!is_below(place, {"/"}) || is_below("/", {place})) {
    return refuse(fmt::format("{}: '{}' is no absolute path below /.", key, volume.destination));
  }
  if (is_below(place, {std::string(kQuadFolder), std::string(kStartFolder), "/dev/shm", "/proc"})) {
    return refuse(
        fmt::format("{}: '{}' is taken; mount the volume elsewhere.", key, volume.destination));
  }
  if (volume.sub_path.starts_with('/') || !is_below("/" + volume.sub_path, {"/"})) {
    return refuse(
        fmt::format("{}: sub_path must be a path within the volume, without '..', not '{}'.", key,
                    volume.sub_path));
  }
  if (volume.kind == VolumeRequest::Kind::kHostPath) {
    QUAD_TRY(check_host_path(volume.source, settings, key));
  }
  if (volume.kind == VolumeRequest::Kind::kClaim) {
    QUAD_TRY(check_claim(volume.source, settings, key));
  }
  if (volume.kind == VolumeRequest::Kind::kEphemeral && volume.size_bytes <= 0) {
    return refuse(fmt::format("{}: an ephemeral volume needs a size.", key));
  }
  if (volume.kind == VolumeRequest::Kind::kEphemeral) {
    QUAD_TRY(check_choice(settings.storage_classes, volume.storage_class, "StorageClass", key));
    QUAD_TRY(check_labels(volume.labels, settings, key + ".labels"));
  }
  if (ranks > 1 && volume.kind == VolumeRequest::Kind::kClaim && !volume.access_modes.empty() &&
      !has_mode(volume, "ReadWriteMany") && !has_mode(volume, "ReadOnlyMany")) {
    const std::vector<std::string_view> modes(volume.access_modes.begin(),
                                              volume.access_modes.end());
    return refuse(fmt::format(
        "{}: the volume '{}' is {}, so it can be used {}; a job of {} nodes needs one that is "
        "ReadWriteMany (or ReadOnlyMany, to read).",
        key, volume.source, join_words(modes),
        has_mode(volume, "ReadWriteOnce") ? "on one node only" : "by one pod only", ranks));
  }
  return {};
}

HotFolders hot_folders(const PodRequest& request, const HotTier& hot) {
  const std::string user = folder_of_user(request.owner);
  const std::string job = fmt::format("{}/{}", hot.folder, request.key.job.value());
  HotFolders folders;
  folders.job = path_within(job, hot.mount);
  folders.job_place = request.holds ? hot.folder : job;
  folders.home = user;
  folders.home_place = fmt::format("{}/{}", hot.mount, user);
  return folders;
}

json::object hot_tier_mount(std::string_view place) {
  return mount_of(kHotVolume, place, "");
}

Result<PodVolumes> pod_volumes(const PodRequest& request, const PodSettings& settings) {
  PodVolumes out;
  std::vector<std::string> places;
  if (settings.hot) {
    json::object volume = hot_source(*settings.hot);
    volume["name"] = kHotVolume;
    out.volumes.push_back(std::move(volume));
    const HotFolders folders = hot_folders(request, *settings.hot);
    out.mounts.push_back(mount_of(kHotVolume, folders.job_place, folders.job));
    out.mounts.push_back(mount_of(kHotVolume, folders.home_place, folders.home));
    places = {settings.hot->mount, folders.job_place, folders.home_place};
  }
  for (std::size_t i = 0; i < request.volumes.size(); ++i) {
    const VolumeRequest& volume = request.volumes[i];
    const std::string key = "volumes." + volume.destination;
    QUAD_TRY(check_volume(volume, request.ranks, settings, request.home, key));
    const std::string place = absolute(volume.destination, request.home);
    if (std::any_of(places.begin(), places.end(), [&](const std::string& other) {
          return is_below(place, {other}) && is_below(other, {place});
        })) {
      return error(ErrorCode::kInvalid,
                   fmt::format("{}: another volume is mounted at '{}' already; mount it elsewhere.",
                               key, place),
                   key);
    }
    places.push_back(place);
    const bool only_reads = volume.kind == VolumeRequest::Kind::kClaim &&
                            has_mode(volume, "ReadOnlyMany") &&
                            !has_mode(volume, "ReadWriteMany") &&
                            (request.ranks > 1 || !has_mode(volume, "ReadWriteOnce"));
    std::string sub_path = volume.sub_path;
    if (volume.kind == VolumeRequest::Kind::kHostPath) {
      // By subPath, below which the kubelet follows no link that a job may have put there.
      sub_path = path_within(volume.source, open_folder_of(volume.source, settings));
      sub_path += sub_path.empty() || volume.sub_path.empty() ? "" : "/";
      sub_path += volume.sub_path;
    }
    add(out, fmt::format("quad-volume-{}", i), volume_source(request, settings, i), place, sub_path,
        volume.read_only || only_reads);
  }
  return out;
}

json::array shared_claims(const PodRequest& request, const PodSettings& settings) {
  json::array claims;
  for (std::size_t i = 0; i < request.volumes.size(); ++i) {
    const VolumeRequest& volume = request.volumes[i];
    if (is_shared(volume, request.ranks)) {
      claims.push_back(json::object{
          {"apiVersion", "v1"},
          {"kind", "PersistentVolumeClaim"},
          {"metadata",
           {{"name", shared_claim_name(request, settings, i)},
            {"namespace", settings.namespace_name},
            {"labels", labels_of(volume)}}},
          {"spec", claim_spec(volume, settings)},
      });
    }
  }
  return claims;
}

}  // namespace quad::kubernetes
