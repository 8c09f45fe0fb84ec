#include <algorithm>
#include <array>

#include "config/keys.h"
#include "config/words.h"

namespace quad::config {

namespace {

using spec::Field;
using spec::Rule;
using spec::RuleRef;

RuleRef path() {
  return spec::text_matching(is_path, "the path of a file, without ~");
}
/// Of a file that holds a secret: who writes the secret itself there must not see it in a message.
RuleRef path_of_secret() {
  Rule rule = *path();
  rule.secret = true;
  rule.shape = "the path of a file that holds it";
  return spec::make(std::move(rule));
}
RuleRef folder() {
  return spec::text_matching(is_absolute_folder, "an absolute path such as /data/hot, without ..");
}
RuleRef web_address() {
  return spec::text_matching(is_web_address,
                             "an address such as https://quad.example.edu, without a user");
}
RuleRef duration() {
  return spec::either(
      {spec::text_matching(is_duration, "a time with its unit, such as 90s, 30m, 12h or 2d"),
       spec::number_above(0)});
}
RuleRef size() {
  return spec::either({spec::text_matching(is_size, "a size such as 64GB"), spec::number_above(0)});
}
RuleRef amount() {
  return spec::either(
      {spec::text_matching(is_amount, "an amount such as 4"), spec::number_above(0)});
}
RuleRef image() {
  return spec::text_matching(is_image, "an image such as registry.example.edu/quad:1.0");
}
RuleRef object_name() {
  return spec::text_matching(
      is_object_name, "a name of lower-case letters, digits, - and . as Kubernetes has them");
}
RuleRef label_name() {
  return spec::text_matching(is_label_name, "a name such as rdma/hca");
}
RuleRef group(std::string_view name, std::vector<Field> fields) {
  return spec::make(spec::closed_map(name, std::move(fields)));
}

RuleRef hot_tier() {
  return group(
      "hot_tier",
      {{"host_path", folder()},
       {"nfs", group("nfs", {{"server", spec::text_matching(is_host, "a host's name or address")},
                             {"path", spec::text_matching(is_path, "a path such as /export")}})},
       {"pvc", object_name()},
       {"mount", folder()}});
}

RuleRef choice_of_objects(std::string_view name) {
  return group(name, {{"default", object_name()}, {"allowed", spec::list_of(object_name())}});
}

RuleRef labels(RuleRef value, bool (*key)(std::string_view), std::string_view shape) {
  Rule rule = spec::map_of(std::move(value));
  rule.key_matches = key;
  rule.key_shape = shape;
  return spec::make(std::move(rule));
}

bool is_pod_part(std::string_view key) {
  return key == "metadata" || key == "spec" || key == "apiVersion" || key == "kind";
}

/// Without places in lists: "spec.containers.lifecycle", "metadata.annotations.a.example/b".
bool is_pod_key(std::string_view key) {
  return (key.starts_with("spec.") || key.starts_with("metadata.labels.") ||
          key.starts_with("metadata.annotations.")) &&
         !key.ends_with('.') && key.find("..") == std::string_view::npos &&
         key.find_first_of("[] \t\n*") == std::string_view::npos;
}

bool is_variable(std::string_view name) {
  return !name.empty() && (name.front() < '0' || name.front() > '9') &&
         name.find_first_not_of(
             "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") ==
             std::string_view::npos;
}

/// That may come to jobs from the server: not what Quad itself says to them, or their account does.
bool is_passed_on(std::string_view name) {
  constexpr std::array<std::string_view, 9> kOwn = {"HOME", "USER",   "LOGNAME", "SHELL", "PWD",
                                                    "_",    "OLDPWD", "SHLVL",   "TERM"};
  return is_variable(name) && !name.starts_with("QUAD_") && !name.starts_with("SKYPILOT_") &&
         std::find(kOwn.begin(), kOwn.end(), name) == kOwn.end();
}

RuleRef toleration() {
  return group("a toleration",
               {{"key", label_name()},
                {"operator", spec::choice({"Exists", "Equal"})},
                {"value", spec::text_matching(is_label_value, "a label's value")},
                {"effect", spec::choice({"NoSchedule", "PreferNoSchedule", "NoExecute"})},
                {"tolerationSeconds", spec::integer(0)}});
}

RuleRef rdma() {
  return group(
      "rdma",
      {{"resources", spec::either({label_name(), spec::list_of(label_name(), 1),
                                   labels(spec::integer(1, 1000), is_label_name,
                                          "the name of a resource such as rdma/hca")})},
       {"networks", spec::text_matching(is_network_list,
                                        "names such as train/rail0,train/rail1, or a JSON list")},
       {"env", labels(spec::text(), is_variable, "a name that a variable can have")}});
}

/// What an engine and `kubernetes`, which holds for all of them, may both say.
std::vector<Field> engine_fields() {
  Rule metadata = spec::map_of(spec::any());
  metadata.name = "custom_metadata";
  metadata.forbidden = {"name", "namespace"};
  return {
      {"kubeconfig", path()},
      {"namespace", object_name()},
      {"image", image()},
      {"default_image", image()},
      {"server_url", web_address()},
      {"hot_tier", hot_tier()},
      {"storage_classes", choice_of_objects("storage_classes")},
      {"priority_classes", choice_of_objects("priority_classes")},
      {"allow_host_paths", spec::list_of(folder())},
      {"allow_pod_config",
       spec::list_of(spec::text_matching(is_pod_key, "a key path such as spec.hostNetwork"))},
      {"allow_secrets", spec::list_of(object_name())},
      {"reserved_names", spec::list_of(object_name())},
      {"runtime_class", object_name()},
      {"node_selector", labels(spec::text_matching(is_label_value, "a label's value"),
                               is_label_name, "the name of a label")},
      {"tolerations", spec::list_of(toleration())},
      {"pod_config",
       labels(spec::any(), is_pod_part, "a part of a pod: it may have metadata and spec")},
      {"custom_metadata", spec::make(std::move(metadata))},
      {"rdma", rdma()},
      {"image_pull_secrets", spec::list_of(object_name())},
      {"write_rate", spec::number_above(0)},
      {"write_burst", spec::integer(1, 100'000)},
      {"out_of_service_taint", spec::boolean()},
      {"provision_timeout",
       spec::either({spec::text_matching(is_duration, "a time such as 15m"), spec::integer(-1)})},
      {"autoscaler",
       spec::choice_ignoring_case({"gke", "karpenter", "coreweave", "nebius", "generic"})},
  };
}

RuleRef engines() {
  std::vector<Field> fields = {
      {"type", spec::choice({"kubernetes"})},
      {"in_cluster", spec::boolean()},
      {"context", spec::text_matching(is_engine_name, "a context's name")}};
  const std::vector<Field> more = engine_fields();
  fields.insert(fields.end(), more.begin(), more.end());
  Rule rule = spec::closed_map(
      "engines",
      {{"local", group("the local engine",
                       {{"nodes", spec::integer(0, 1000)},
                        {"gpus", spec::text_matching(is_gpus,
                                                     "a model and a number "
                                                     "such as H100:8")},
                        {"cpus", amount()},
                        {"memory", size()},
                        {"reserved_uids", spec::text_matching(is_uid_range,
                                                              "a range of uids, each 1000 or "
                                                              "more, such as "
                                                              "2010000000-2010065535")},
                        {"processes", spec::integer(16, 4'000'000)},
                        {"environment",
                         spec::list_of(spec::text_matching(
                             is_passed_on,
                             "the name of a variable such as HTTPS_PROXY; QUAD_*, SKYPILOT_*, "
                             "HOME, USER and the like are each job's own"))}})}});
  rule.item = group("a Kubernetes engine", std::move(fields));
  rule.key_matches = is_engine_name;
  rule.key_shape = "a name that can stand after k8s/ in infra: it has no blanks, / or *";
  return spec::make(std::move(rule));
}

RuleRef kubernetes() {
  std::vector<Field> fields = engine_fields();
  fields.push_back(
      {"allowed_contexts",
       spec::list_of(spec::text_matching(is_engine_name, "the name of a context"), 1)});
  Rule contexts = spec::closed_map("context_configs", {});
  contexts.item = group("a context", engine_fields());
  fields.push_back({"context_configs", spec::make(std::move(contexts))});
  return group("kubernetes", std::move(fields));
}

RuleRef jobs() {
  return group(
      "jobs",
      {{"defaults", group("jobs.defaults", {{"image", image()},
                                            {"cpus", amount()},
                                            {"memory", size()},
                                            {"cpus_per_gpu", amount()},
                                            {"memory_per_gpu", size()},
                                            {"max_duration", duration()}})},
       {"limits", group("jobs.limits", {{"max_duration", duration()},
                                        {"active_per_user", spec::integer(1, 1'000'000)}})}});
}

RuleRef users() {
  // The greatest is what chown takes for "leave it as it is".
  const RuleRef id = spec::integer(0, 4'294'967'294);
  const RuleRef account = spec::text_matching(is_account, "the name of an account");
  return spec::make(spec::map_of(spec::either(
      {account,
       group("a user",
             {{"account", account}, {"uid", id}, {"gid", id}, {"groups", spec::list_of(id)}})})));
}

Rule build() {
  return spec::closed_map(
      "the configuration",
      {{"listen", spec::text_matching(is_host, "an address such as 127.0.0.1, without a port")},
       {"port", spec::integer(0, 65'535)},
       {"url", web_address()},
       {"tls", group("tls", {{"certificate", path()}, {"key", path_of_secret()}, {"ca", path()}})},
       {"runners_over_tcp", spec::boolean()},
       {"node_lost_after", duration()},
       {"suspect_after", duration()},
       {"strict_lease", duration()},
       {"spool", size()},
       {"hot_tier", hot_tier()},
       {"jobs", jobs()},
       {"users", users()},
       {"engines", engines()},
       {"kubernetes", kubernetes()}});
}

}  // namespace

const spec::Rule& config_rule() {
  static const Rule rule = build();
  return rule;
}

bool is_group(const spec::Rule& rule) {
  return rule.kind == Rule::Kind::kMap && (!rule.fields.empty() || rule.name == "context_configs");
}

}  // namespace quad::config
