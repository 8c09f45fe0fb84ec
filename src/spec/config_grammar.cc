// The blocks `config:` (what a task may override of the site's configuration) and `quad:`.

#include "spec/number.h"
#include "spec/task_grammar.h"

namespace quad::spec {

namespace {

RuleRef filled_text() {
  Rule rule = *text();
  rule.min_length = 1;
  return make(std::move(rule));
}

RuleRef free_mapping() {
  return make(map_of(any()));
}

RuleRef text_or_null() {
  return either({text(), null()});
}

/// Metadata for pods: anything but the two that the engine itself must choose.
RuleRef custom_metadata() {
  Rule rule = map_of(any());
  rule.name = "custom_metadata";
  rule.forbidden = {"name", "namespace"};
  return make(std::move(rule));
}

bool is_one_line(std::string_view text) {
  return text.find('\n') == std::string_view::npos;
}

bool is_vpc_name(std::string_view text) {
  std::size_t slashes = 0;
  bool filled = false;
  for (const char c : text) {
    if (c == '/') {
      if (!filled || ++slashes > 1) {
        return false;
      }
      filled = false;
    } else if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-') {
      filled = true;
    } else {
      return false;
    }
  }
  return filled;
}

RuleRef kubernetes() {
  Rule docker =
      closed_map("enable_docker", {{"mode", choice({"ALL", "BUILD"})}, {"cache_volume", text()}});
  docker.required = {"mode"};
  return make(open_map(
      "kubernetes",
      {
          {"pod_config", free_mapping()},
          {"provision_timeout", integer()},
          {"custom_metadata", custom_metadata()},
          {"kueue", make(closed_map("kueue", {{"local_queue_name", text()},
                                              {"admission_timeout", integer()}}))},
          {"quota", make(open_map("quota", {{"queue", text()}}))},
          {"dws", make(closed_map(
                      "dws", {{"enabled", boolean()},
                              {"max_run_duration",
                               either({text_matching(is_minutes_text, "a time such as 10m or 2h"),
                                       integer()})}}))},
          {"remote_identity", either({text(), make(map_of(text()))})},
          {"set_pod_resource_limits", either({boolean(), number(1)})},
          {"enable_docker", either({boolean(), choice({"ALL", "BUILD"}), make(std::move(docker))})},
      }));
}

RuleRef gcp() {
  Rule group = closed_map("managed_instance_group",
                          {{"run_duration", integer()}, {"provision_timeout", integer()}});
  group.required = {"run_duration"};
  return make(closed_map("gcp", {
                                    {"managed_instance_group", make(std::move(group))},
                                    {"enable_gvnic", boolean()},
                                    {"enable_gpu_direct", boolean()},
                                    {"placement_policy", text()},
                                    {"vpc_name", either({text_matching(is_vpc_name,
                                                                       "a VPC name such as net or "
                                                                       "project/net"),
                                                         null()})},
                                    {"subnet_names", either({text(), null(), list_of(text())})},
                                }));
}

RuleRef hooks() {
  Rule run = *text();
  run.min_length = 1;
  run.max_length = std::size_t{16} << 10U;
  Rule events = *list_of(choice({"stop", "preemption", "down"}), 1);
  events.unique = true;
  Rule hook = closed_map("a hook", {{"run", make(std::move(run))},
                                    {"events", make(std::move(events))},
                                    {"timeout", integer(1)}});
  hook.required = {"run"};
  return list_of(make(std::move(hook)), 0, 32);
}

Rule build_config() {
  Rule identity = map_of(filled_text());
  identity.min_size = 1;
  identity.max_size = 1;
  return open_map(
      "config",
      {
          {"hooks", hooks()},
          {"kubernetes", kubernetes()},
          {"slurm",
           make(open_map("slurm",
                         {
                             {"sbatch_options",
                              make(map_of(either({text_matching(is_one_line, "one line of text"),
                                                  number(), boolean(), null()})))},
                             {"quota", make(open_map("quota", {{"queue", filled_text()},
                                                               {"account", filled_text()}}))},
                             {"cpu_partition", text()},
                         }))},
          {"ssh", make(closed_map("ssh", {{"pod_config", free_mapping()},
                                          {"provision_timeout", integer()},
                                          {"custom_metadata", custom_metadata()}}))},
          {"docker",
           make(closed_map("docker", {{"run_options", either({text(), list_of(text())})}}))},
          {"nvidia_gpus", make(closed_map("nvidia_gpus", {{"disable_ecc", boolean()}}))},
          {"azure", make(closed_map(
                        "azure", {{"vpc_name", text_or_null()},
                                  {"remote_identity",
                                   either({filled_text(), list_of(make(std::move(identity)))})}}))},
          {"gcp", gcp()},
          {"vast", make(closed_map("vast", {{"datacenter_only", boolean()},
                                            {"create_instance_kwargs", free_mapping()}}))},
          {"active_workspace", text()},
      });
}

bool is_duration(std::string_view text) {
  return parse_duration(text).has_value();
}

RuleRef duration() {
  return text_matching(is_duration, "a time with its unit, such as 90s, 30m, 12h or 2d");
}

Rule build_quad() {
  return closed_map(
      "quad",
      {
          {"kind", choice({"batch", "session", "service"})},
          {"checkpoint",
           make(closed_map("checkpoint",
                           {
                               {"path", filled_text()},
                               {"interval", duration()},
                               {"keep", integer(1, 1'000'000)},
                               {"framework", choice({"auto", "pytorch", "safetensors", "dcp", "hf",
                                                     "lightning", "deepspeed", "orbax", "marker"})},
                               {"marker", filled_text()},
                           }))},
          {"max_duration", duration()},
          {"queue", filled_text()},
          {"preemptible", boolean()},
          {"exclude_nodes", list_of(filled_text(), 0, 1'000)},
          {"fence", choice({"normal", "strict"})},
          {"depends_on", list_of(either({integer(1), filled_text()}))},
          {"array", either({integer(1, 1'000'000), text()})},
          {"notify", list_of(filled_text())},
          {"stop_grace", duration()},
          {"stop_signal_to", choice({"main", "all"})},
      });
}

}  // namespace

const Rule& config_rule() {
  static const Rule kRule = build_config();
  return kRule;
}

const Rule& quad_rule() {
  static const Rule kRule = build_quad();
  return kRule;
}

}  // namespace quad::spec
