#include "spec/task_grammar.h"

#include <algorithm>

#include "base/text.h"
#include "spec/letters.h"
#include "spec/number.h"
#include "spec/task.h"

namespace quad::spec {

namespace {

/// cloud[/region[/zone]], with * for any cloud; kubernetes and k8s take a context, which may have
/// slashes in it. Quad's own: local, the machine of the server.
bool is_infra(std::string_view text) {
  const std::size_t slash = text.find('/');
  const std::string_view cloud = text.substr(0, slash);
  if (same_ignoring_case(cloud, "kubernetes") || same_ignoring_case(cloud, "k8s")) {
    return slash == std::string_view::npos ||
           (slash + 1 < text.size() && text.find('\n') == std::string_view::npos);
  }
  if (same_ignoring_case(text, kLocalPlace)) {
    return true;
  }
  const auto& clouds = cloud_names();
  if (cloud != "*" && std::none_of(clouds.begin(), clouds.end(), [&](std::string_view name) {
        return same_ignoring_case(name, cloud);
      })) {
    return false;
  }
  if (slash == std::string_view::npos) {
    return true;
  }
  const auto parts = split(text.substr(slash + 1), '/');
  return parts.size() <= 2 && std::none_of(parts.begin(), parts.end(),
                                           [](std::string_view part) { return part.empty(); });
}

bool is_sub_path(std::string_view text) {
  const auto allowed = [](char c) {
    return is_letter(c) || is_digit(c) || c == '.' || c == '_' || c == '-' || c == '/';
  };
  return !text.empty() && text[0] != '/' && std::all_of(text.begin(), text.end(), allowed);
}

bool is_rclone_size(std::string_view text) {
  const auto first = std::find_if_not(text.begin(), text.end(), is_digit);
  const std::string_view unit = text.substr(static_cast<std::size_t>(first - text.begin()));
  return first != text.begin() &&
         (unit.empty() || (unit.size() == 1 &&
                           std::string_view("bkmgtpBKMGTP").find(unit) != std::string_view::npos));
}

/// One or more "[-+]number unit", or one number without a unit.
bool is_rclone_duration(std::string_view text) {
  std::size_t at = 0;
  int parts = 0;
  while (at < text.size()) {
    at += text[at] == '-' || text[at] == '+' ? 1U : 0U;
    std::size_t digits = 0;
    for (; at < text.size() && is_digit(text[at]); ++at) {
      ++digits;
    }
    if (at < text.size() && text[at] == '.') {
      std::size_t fraction = 0;
      for (++at; at < text.size() && is_digit(text[at]); ++at) {
        ++fraction;
      }
      digits = fraction;
    }
    if (digits == 0) {
      return false;
    }
    if (at == text.size()) {
      return parts == 0;
    }
    if (text.substr(at).starts_with("ms")) {
      at += 2;
    } else if (std::string_view("smhdwMy").find(text[at]) != std::string_view::npos) {
      ++at;
    } else {
      return false;
    }
    ++parts;
  }
  return parts > 0;
}

/// "H100", "H100:1": how target_qps_per_replica names an accelerator.
bool is_qps_accelerator(std::string_view text) {
  const std::size_t colon = text.find(':');
  const std::string_view name = text.substr(0, colon);
  const auto upper = [](char c) { return (c >= 'A' && c <= 'Z') || is_digit(c); };
  if (name.empty() || !std::all_of(name.begin(), name.end(), upper)) {
    return false;
  }
  const std::string_view count =
      colon == std::string_view::npos ? std::string_view("1") : text.substr(colon + 1);
  return !count.empty() && std::all_of(count.begin(), count.end(), is_digit);
}

RuleRef size_or_integer() {
  return either({text_matching(is_size_text, "a size such as 100 or 100GB"), integer()});
}

RuleRef autostop() {
  Rule hook_timeout = *integer(1);
  return either(
      {boolean(), text_matching(is_minutes_text, "a time such as 10m, 2h, 1d or 1w"), integer(),
       make(closed_map("autostop",
                       {
                           {"idle_minutes", integer(0)},
                           {"down", boolean()},
                           {"wait_for", choice_ignoring_case({"jobs_and_ssh", "jobs", "none"})},
                           {"hook", text()},
                           {"hook_timeout", make(std::move(hook_timeout))},
                       }))});
}

RuleRef job_recovery() {
  Rule codes = *list_of(integer(0, 255));
  codes.unique = true;
  return either({text(), make(open_map("job_recovery",
                                       {
                                           {"strategy", either({text(), null()})},
                                           {"max_restarts_on_errors", integer(0)},
                                           {"recover_on_exit_codes",
                                            either({integer(0, 255), make(std::move(codes))})},
                                       }))});
}

/// The keys of one candidate; `accelerators` is the only one that differs between it and the whole.
std::vector<Field> resource_fields(RuleRef accelerators) {
  Rule login = closed_map("_docker_login_config",
                          {{"username", text()}, {"password", text()}, {"server", text()}});
  login.required = {"username", "password", "server"};
  return {
      {"infra", text_matching(is_infra,
                              "a place such as k8s, k8s/context, local, slurm/cluster/partition, "
                              "aws/region/zone or */region")},
      {"cloud", choice_ignoring_case(cloud_names())},
      {"region", text()},
      {"zone", text()},
      {"cpus", either({text(), number()})},
      {"memory", either({text(), number()})},
      {"accelerators", std::move(accelerators)},
      {"instance_type", text()},
      {"use_spot", boolean()},
      {"job_recovery", job_recovery()},
      {"volumes", list_of(make(open_map("a disk", {{"disk_size", size_or_integer()},
                                                   {"disk_tier", text()},
                                                   {"path", text()},
                                                   {"auto_delete", boolean()},
                                                   {"storage_type", text()},
                                                   {"name", text()},
                                                   {"attach_mode", text()}})))},
      {"disk_size", size_or_integer()},
      {"ephemeral_storage", size_or_integer()},
      {"disk_tier", text()},
      {"network_tier", text()},
      {"local_disk", text()},
      {"max_hourly_cost", number_above(0)},
      {"ports", either({text(), integer(), list_of(either({text(), integer()})), null()})},
      {"labels", make(map_of(text()))},
      {"accelerator_args",
       make(closed_map("accelerator_args", {{"runtime_version", text()},
                                            {"tpu_name", text()},
                                            {"tpu_vm", boolean()},
                                            {"gcp_queued_resource", boolean()}}))},
      {"image_id", either({text(), make(map_of(any())), null()})},
      {"autostop", autostop()},
      {"priority", integer(-1000, 1000)},
      {"priority_class", text()},
      {"_no_missing_accel_warnings", boolean()},
      {"_docker_login_config", make(std::move(login))},
      {"_is_image_managed", boolean()},
      {"_requires_fuse", boolean()},
      {"_cluster_config_overrides", make(map_of(any()))},
  };
}

Rule build_resources() {
  Rule one = map_of(number());
  one.max_size = 1;
  const RuleRef candidate = make(closed_map(
      "a candidate of resources", resource_fields(either({text(), make(std::move(one))}))));
  std::vector<Field> fields =
      resource_fields(either({text(), make(map_of(either({null(), number()}))), list_of(text())}));
  fields.push_back({"any_of", list_of(candidate)});
  fields.push_back({"ordered", list_of(candidate)});
  return closed_map("resources", std::move(fields));
}

Rule build_storage() {
  return closed_map(
      "a storage object",
      {
          {"name", text()},
          {"source", either({text(), list_of(text(), 1)})},
          {"store", choice_ignoring_case({"s3", "gcs", "azure", "r2", "ibm", "oci", "nebius",
                                          "coreweave", "vastdata", "hf", "volume"})},
          {"persistent", boolean()},
          {"mode", choice_ignoring_case({"MOUNT", "COPY", "MOUNT_CACHED"})},
          {"type", choice_ignoring_case(
                       {"MODEL_CHECKPOINT_RO", "MODEL_CHECKPOINT_RW", "DATASET_RO", "DATASET_RW"})},
          {"config",
           make(open_map(
               "config",
               {
                   {"disk_size", size_or_integer()},
                   {"disk_tier", text()},
                   {"storage_type", text()},
                   {"attach_mode", text()},
                   {"mount_cached",
                    make(closed_map(
                        "mount_cached",
                        {
                            {"transfers", integer(1)},
                            {"buffer_size", text_matching(is_rclone_size, "a size such as 16M")},
                            {"vfs_cache_max_size",
                             text_matching(is_rclone_size, "a size such as 10G")},
                            {"vfs_cache_max_age",
                             text_matching(is_rclone_duration, "a time such as 1h or 30s")},
                            {"vfs_read_ahead", text_matching(is_rclone_size, "a size such as 16M")},
                            {"vfs_read_chunk_size",
                             text_matching(is_rclone_size, "a size such as 32M")},
                            {"vfs_read_chunk_streams", integer(0)},
                            {"vfs_write_back",
                             text_matching(is_rclone_duration, "a time such as 1h or 30s")},
                            {"read_only", boolean()},
                        }))},
                   {"mount", make(closed_map("mount", {{"read_only", boolean()},
                                                       {"hf_mount_args", list_of(text())}}))},
               }))},
          {"_is_sky_managed", boolean()},
          {"_bucket_sub_path", text()},
          {"_force_delete", boolean()},
      });
}

Rule build_service() {
  Rule probe =
      closed_map("readiness_probe", {
                                        {"path", text()},
                                        {"initial_delay_seconds", number()},
                                        {"timeout_seconds", number()},
                                        {"endpoint_probe_interval_seconds", number()},
                                        {"consecutive_failure_threshold_timeout", number()},
                                        {"post_data", either({text(), make(map_of(any()))})},
                                        {"headers", make(map_of(text()))},
                                    });
  probe.required = {"path"};
  Rule qps = map_of(number(0));
  qps.key_matches = is_qps_accelerator;
  qps.key_shape = "an accelerator such as H100 or H100:8";
  Rule policy = closed_map(
      "replica_policy", {
                            {"min_replicas", integer(0)},
                            {"max_replicas", integer(0)},
                            {"num_overprovision", integer(0)},
                            {"target_qps_per_replica", either({number(0), make(std::move(qps))})},
                            {"dynamic_ondemand_fallback", boolean()},
                            {"base_ondemand_fallback_replicas", integer(0)},
                            {"spot_placer", choice_ignoring_case({"dynamic_fallback"})},
                            {"upscale_delay_seconds", number()},
                            {"downscale_delay_seconds", number()},
                        });
  policy.required = {"min_replicas"};
  Rule tls = closed_map("tls", {{"keyfile", text()}, {"certfile", text()}});
  tls.required = {"keyfile", "certfile"};
  return closed_map(
      "a service",
      {
          {"readiness_probe", either({text(), make(std::move(probe))})},
          {"replicas", integer()},
          {"replica_policy", make(std::move(policy))},
          {"load_balancer",
           make(closed_map("load_balancer", {{"stream_timeout_seconds", number()}}))},
          {"load_balancing_policy",
           choice_ignoring_case({"round_robin", "least_load", "instance_aware_least_load"})},
          {"ports", integer()},
          {"tls", make(std::move(tls))},
          {"workers", integer()},
          {"pool", make(closed_map("pool",
                                   {
                                       {"workers", integer(0)},
                                       {"min_workers", integer(0)},
                                       {"max_workers", integer(0)},
                                       {"queue_length_threshold", integer(1)},
                                       {"upscale_delay_seconds", number(0)},
                                       {"downscale_delay_seconds", number(0)},
                                   }))},
      });
}

Rule build_volume_mount() {
  return closed_map(
      "a volume mount",
      {
          {"path", text()},
          {"volume_name", text()},
          {"is_ephemeral", boolean()},
          {"sub_path", text_matching(is_sub_path, "a relative path")},
          {"volume_config",
           make(open_map("volume_config", {{"cloud", choice_ignoring_case(cloud_names())},
                                           {"region", either({text(), null()})},
                                           {"zone", either({text(), null()})}}))},
      });
}

Rule build_task() {
  Rule git = closed_map("a git workdir", {{"url", text()}, {"ref", text()}});
  git.required = {"url"};
  const RuleRef text_or_null = either({text(), null()});
  Rule envs = map_of(text_or_null);
  envs.key_matches = is_env_name;
  envs.key_shape =
      "a name that a shell variable can have (letters, digits and _, no digit at its start)";
  Rule mounted = map_of(make(closed_map("a managed secret", {{"mount_path", text()}})));
  mounted.max_size = 1;
  Rule sizes = map_of(number());
  sizes.max_size = 1;
  const RuleRef one_size = make(std::move(sizes));
  const RuleRef mapping = make(map_of(any()));
  return closed_map("a task",
                    {
                        {"name", text()},
                        {"resources", mapping},
                        {"num_nodes", integer()},
                        {"workdir", either({text(), make(std::move(git))})},
                        {"setup", text()},
                        {"run", text()},
                        {"envs", make(std::move(envs))},
                        {"secrets", either({make(map_of(text_or_null)), list_of(text())})},
                        {"managed_secrets", list_of(either({text(), make(std::move(mounted))}))},
                        {"file_mounts", mapping},
                        {"volumes", mapping},
                        {"service", mapping},
                        {"pool", mapping},
                        {"config", make(config_rule())},
                        {"inputs", one_size},
                        {"outputs", one_size},
                        {"event_callback", text()},
                        {"api_server_access", boolean()},
                        {"quad", make(quad_rule())},
                        {"file_mounts_mapping", mapping},
                        {"volume_mounts", list_of(make(volume_mount_rule()))},
                        {"_metadata", mapping},
                    });
}

}  // namespace

bool is_env_name(std::string_view name) {
  return !name.empty() && (is_letter(name[0]) || name[0] == '_') &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return is_letter(c) || is_digit(c) || c == '_'; });
}

const std::vector<std::string_view>& cloud_names() {
  static const std::vector<std::string_view> kNames = {
      "kubernetes", "slurm",      "ssh",        "aws",        "azure",          "gcp",
      "ibm",        "lambda",     "scp",        "oci",        "runpod",         "vast",
      "vsphere",    "cudo",       "fluidstack", "paperspace", "primeintellect", "do",
      "nebius",     "hyperbolic", "seeweb",     "shadeform",  "yotta",          "mithril",
      "verda"};
  return kNames;
}

const Rule& task_rule() {
  static const Rule kRule = build_task();
  return kRule;
}

const Rule& resources_rule() {
  static const Rule kRule = build_resources();
  return kRule;
}

const Rule& storage_rule() {
  static const Rule kRule = build_storage();
  return kRule;
}

const Rule& service_rule() {
  static const Rule kRule = build_service();
  return kRule;
}

const Rule& volume_mount_rule() {
  static const Rule kRule = build_volume_mount();
  return kRule;
}

}  // namespace quad::spec
