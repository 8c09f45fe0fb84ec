// One task: its mapping is brought into shape, checked against the grammar, and read part by part.

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <unordered_set>

#include <fmt/format.h>

#include "spec/grammar.h"
#include "spec/readers.h"
#include "spec/task_grammar.h"

namespace quad::spec {

namespace {

constexpr std::size_t kMostSubstituted = 16U << 20U;
// Each is looked for in every text that a secret may have been filled into, before it is shown.
constexpr std::size_t kMostSecrets = 256;
constexpr std::size_t kLongestLogin = 64U << 10U;  // each alternative has a copy
constexpr std::string_view kManagedPrefix = "secrets:";

/// Keys and values of envs and secrets become strings, as `A: 1` means the text "1".
void to_strings(Node& node) {
  const auto as_text = [](Node& part) {
    const Mark mark = part.mark;
    part = Node::make_string(python_str(part), mark);
  };
  for (Node& item : node.items) {
    as_text(item);
  }
  std::vector<Entry> entries = std::move(node.entries);
  node.entries.clear();
  for (Entry& entry : entries) {
    as_text(entry.key);
    if (!entry.value.is_null()) {
      as_text(entry.value);
    }
    node.entries.push_back(std::move(entry));
  }
}

/// "experimental.config_overrides" is what `config` was called until 2025.
bool rename_experimental(Node& config, Issues& issues) {
  const Node* old = config.find("experimental");
  const Node* overrides = old != nullptr && old->is_mapping() && old->entries.size() == 1
                              ? old->find("config_overrides")
                              : nullptr;
  if (overrides == nullptr) {
    return true;  // anything else under it is an unknown key
  }
  if (config.find_value("config") != nullptr) {
    issues.fail("experimental", old->mark,
                "experimental.config_overrides is the old name of config; give only config");
    return false;
  }
  issues.warn(
      "experimental", old->mark,
      "experimental.config_overrides is an old spelling, read as config; SkyPilot refuses it",
      "config");
  Node moved = *overrides;
  config.erase("experimental");
  config.set("config", std::move(moved));
  return true;
}

struct SecretName {
  std::string name;
  std::optional<std::string> scope;
};

/// "[secrets:][scope.]NAME".
SecretName parse_secret_name(std::string_view written) {
  if (written.starts_with(kManagedPrefix)) {
    written.remove_prefix(kManagedPrefix.size());
  }
  for (const std::string_view scope : {"personal", "workspace", "global"}) {
    if (written.starts_with(scope) && written.substr(scope.size()).starts_with('.')) {
      return {std::string(written.substr(scope.size() + 1)), std::string(scope)};
    }
  }
  return {std::string(written), std::nullopt};
}

class TaskReader {
 public:
  TaskReader(Node config, const Overrides& overrides, Issues& issues)
      : config_(std::move(config)), overrides_(overrides), issues_(issues) {}

  std::optional<Task> read() {
    const std::size_t before = issues_.failures();
    for (const std::string_view key : {"envs", "secrets"}) {
      if (Node* node = config_.find(key);
          node != nullptr && (node->is_mapping() || node->is_sequence())) {
        to_strings(*node);
      }
    }
    if (const Node* envs = config_.find("envs"); envs != nullptr && envs->is_sequence()) {
      issues_.fail("envs", envs->mark, "envs must be a mapping (NAME: value), not a list");
      return std::nullopt;
    }
    if (!rename_experimental(config_, issues_)) {
      return std::nullopt;
    }
    const bool shaped = check(config_, task_rule(), "", issues_, Nulls::kAbsent);
    check_nulls();
    // Resources are checked even if another part is wrong: most files have most of their faults
    // there.
    if (!shaped) {
      check_resources_alone();
      return std::nullopt;
    }
    read_envs();
    read_secrets();
    check_docker_login();
    check_all_variables();
    fill_in();
    read_plain();
    read_mounts();
    read_config();
    read_resources_part();
    read_services();
    if (issues_.failures() != before) {
      return std::nullopt;
    }
    add_registry_access();
    add_fuse();
    constexpr int kMarkedLevels = 3;  // "quad.checkpoint.interval"
    task_.marks.add(config_, "", kMarkedLevels);
    return std::move(task_);
  }

 private:
  const Node* get(std::string_view key) const { return config_.find_value(key); }

  /// Keys that may not stand without a value, though most may.
  void check_nulls() {
    const auto refuse = [&](std::string_view key, std::string_view what) {
      if (const Node* node = config_.find(key); node != nullptr && node->is_null()) {
        issues_.fail(key, node->mark,
                     fmt::format("{} is empty; {} or leave the key out", key, what));
      }
    };
    refuse("envs", "write NAME: value lines under it");
    refuse("inputs", "write one URI: GB line under it");
    refuse("outputs", "write one URI: GB line under it");
  }

  void check_resources_alone() {
    const Node* resources = get("resources");
    if (resources == nullptr || !resources->is_mapping()) {
      return;
    }
    Task scratch;
    read_resources(*resources, scratch, issues_);
  }

  void read_envs() {
    std::unordered_map<std::string_view, std::string_view> overrides;  // the last one given counts
    for (const NamedValue& one : overrides_.envs) {
      overrides.insert_or_assign(one.first, one.second);
    }
    const auto given_for = [&](std::string_view name) {
      const auto found = overrides.find(name);
      return found == overrides.end() ? std::nullopt : std::optional(std::string(found->second));
    };
    std::unordered_set<std::string_view> written;
    if (const Node* envs = get("envs")) {
      for (const Entry& entry : envs->entries) {
        written.insert(entry.key.text);
        const std::optional<std::string> given = given_for(entry.key.text);
        if (!given && entry.value.is_null()) {
          issues_.fail(join_path("envs", entry.key.text), entry.key.mark,
                       fmt::format("the variable {0} has no value; write one (\"\" for empty) or "
                                   "pass --env {0}=VALUE",
                                   entry.key.text));
          continue;
        }
        task_.envs.emplace_back(entry.key.text, given ? *given : entry.value.text);
        env_marks_.push_back(given ? Mark{} : entry.value.mark);
      }
    }
    for (const NamedValue& added : overrides_.envs) {
      if (!is_env_name(added.first)) {
        issues_.fail("envs", {},
                     fmt::format("--env {} is not a name that a shell variable can have",
                                 shown(added.first)));
      } else if (written.insert(added.first).second) {
        task_.envs.emplace_back(added.first, *given_for(added.first));
      }
    }
  }

  static bool has(const std::vector<NamedValue>& list, std::string_view name) {
    return std::any_of(list.begin(), list.end(),
                       [&](const NamedValue& v) { return v.first == name; });
  }

  /// The last one given counts.
  static std::optional<std::string> override_of(const std::vector<NamedValue>& list,
                                                std::string_view name) {
    const auto found = std::find_if(list.rbegin(), list.rend(),
                                    [&](const NamedValue& v) { return v.first == name; });
    return found == list.rend() ? std::nullopt : std::optional(found->second);
  }

  void read_secrets() {
    std::vector<std::string> seen;
    const Node* secrets = get("secrets");
    const Mark mark = secrets != nullptr ? secrets->mark : Mark{};
    const std::size_t written =
        secrets != nullptr ? secrets->entries.size() + secrets->items.size() : 0;
    if (!has_few_enough_secrets(std::max(written, overrides_.secrets.size()), mark)) {
      return;
    }
    if (secrets != nullptr) {
      for (const Entry& entry : secrets->entries) {
        std::optional<std::string> value = override_of(overrides_.secrets, entry.key.text);
        if (!value && !entry.value.is_null()) {
          value = entry.value.text;
        }
        seen.push_back(entry.key.text);
        add_secret(entry.key.text, std::move(value), entry.key.mark);
      }
      for (const Node& item : secrets->items) {
        seen.push_back(item.text);
        if (!item.text.starts_with(kManagedPrefix)) {
          issues_.fail(
              "secrets", item.mark,
              "an entry of a secrets list must be secrets:NAME; write NAME: value lines to "
              "give values");
          continue;
        }
        add_secret(item.text, override_of(overrides_.secrets, item.text), item.mark);
      }
    }
    for (const NamedValue& added : overrides_.secrets) {
      if (std::find(seen.begin(), seen.end(), added.first) == seen.end()) {
        seen.push_back(added.first);
        add_secret(added.first, override_of(overrides_.secrets, added.first), {});
      }
    }
    if (const Node* managed = get("managed_secrets")) {
      for (const Node& item : managed->items) {
        read_managed(item);
      }
    }
    (void)has_few_enough_secrets(task_.secrets.size(), mark);
  }

  bool has_few_enough_secrets(std::size_t count, Mark mark) {
    if (count > kMostSecrets) {
      issues_.fail("secrets", mark,
                   fmt::format("a task may have at most {} secrets, and this one has {}; put what "
                               "belongs together into one",
                               kMostSecrets, count));
    }
    return count <= kMostSecrets;
  }

  void add_secret(const std::string& written, std::optional<std::string> value, Mark mark) {
    Secret secret;
    secret.mark = mark;
    if (value && !written.starts_with(kManagedPrefix)) {
      secret.name = written;
      secret.value = std::move(value);
    } else if (value) {
      issues_.fail(
          join_path("secrets", written), mark,
          fmt::format("{} refers to a managed secret and cannot have a value here; leave out "
                      "the prefix to give one",
                      shown(written)));
      return;
    } else {
      SecretName name = parse_secret_name(written);
      secret.name = std::move(name.name);
      secret.scope = std::move(name.scope);
    }
    task_.secrets.push_back(std::move(secret));
  }

  void read_managed(const Node& item) {
    const auto add = [&](std::string_view written, Mark mark,
                         std::optional<std::string> mount_path) {
      SecretName name = parse_secret_name(written);
      task_.secrets.push_back(
          {std::move(name.name), std::nullopt, std::move(name.scope), std::move(mount_path), mark});
    };
    if (item.is_string()) {
      add(item.text, item.mark, std::nullopt);
    }
    for (const Entry& entry : item.entries) {
      const Node* path = entry.value.find_value("mount_path");
      add(json_key(entry.key), entry.key.mark,
          path != nullptr ? std::optional(path->text) : std::nullopt);
    }
  }

  void check_all_variables() {
    std::vector<TaskVariable> all;
    env_marks_.resize(task_.envs.size());  // those of the command line have none
    for (std::size_t i = 0; i < task_.envs.size(); ++i) {
      all.push_back({task_.envs[i].first, task_.envs[i].second, env_marks_[i]});
    }
    for (const Secret& secret : task_.secrets) {
      if (secret.value) {
        all.push_back({secret.name, *secret.value, secret.mark, true});
      }
    }
    check_variables(all, issues_);
  }

  /// The variables that log in to a registry come all three, from one place.
  void check_docker_login() {
    const std::vector<std::string_view> names = {
        "SKYPILOT_DOCKER_USERNAME", "SKYPILOT_DOCKER_PASSWORD", "SKYPILOT_DOCKER_SERVER"};
    std::size_t in_envs = 0;
    std::size_t in_secrets = 0;
    std::string missing;
    for (const std::string_view name : names) {
      const bool env = has(task_.envs, name);
      const bool secret = std::any_of(task_.secrets.begin(), task_.secrets.end(),
                                      [&](const Secret& s) { return s.value && s.name == name; });
      in_envs += env ? 1U : 0U;
      in_secrets += secret ? 1U : 0U;
      missing = env || secret ? missing : std::string(name);
    }
    const Node* envs = get("envs");
    const Mark mark = envs != nullptr ? envs->mark : config_.mark;
    for (const std::string_view name : names) {
      if (value_of(name).value_or("").size() > kLongestLogin) {
        issues_.fail(in_envs > 0 ? "envs" : "secrets", mark,
                     fmt::format("{} has more than the {} KiB that are allowed", name,
                                 kLongestLogin >> 10U));
      }
    }
    if (in_envs > 0 && in_secrets > 0) {
      issues_.fail("secrets", mark,
                   "the SKYPILOT_DOCKER_ variables must all be under envs or all under secrets");
    } else if (in_envs + in_secrets > 0 && in_envs + in_secrets < names.size()) {
      issues_.fail(
          in_envs > 0 ? "envs" : "secrets", mark,
          fmt::format("the SKYPILOT_DOCKER_ variables belong together; {} is missing", missing));
    }
  }

  void fill_in() {
    Variables variables;
    for (const NamedValue& env : task_.envs) {
      variables[env.first] = env.second;
    }
    for (const Secret& secret : task_.secrets) {
      if (secret.value) {
        variables[secret.name] = *secret.value;
      }
    }
    std::size_t budget = kMostSubstituted;
    for (const std::string_view key : {"file_mounts", "service", "workdir", "volumes"}) {
      Node* node = config_.find(key);
      if (node == nullptr || node->is_null()) {
        continue;
      }
      check_no_dates(*node, std::string(key));
      if (!substitute(*node, variables, budget)) {
        issues_.fail(key, node->mark,
                     fmt::format("{} is longer than {} MiB with its variables filled in", key,
                                 kMostSubstituted >> 20U));
        node->entries.clear();
      }
    }
  }

  /// These parts travel as JSON, which has no dates and no bytes.
  void check_no_dates(const Node& node, const std::string& path) {
    if (node.kind == Node::Kind::kForeign) {
      issues_.fail(
          path, node.mark,
          fmt::format("{} holds {}, which YAML reads as a date or as bytes; put it in quotes", path,
                      shown(node)));
    }
    for (const Node& item : node.items) {
      check_no_dates(item, path);
    }
    for (const Entry& entry : node.entries) {
      check_no_dates(entry.key, path);
      check_no_dates(entry.value, path);
    }
  }

  std::optional<std::string> text_of(std::string_view key) const {
    const Node* node = get(key);
    return node != nullptr ? std::optional(node->text) : std::nullopt;
  }

  void read_plain() {
    task_.name = text_of("name");
    task_.setup = text_of("setup");
    task_.run = text_of("run");
    task_.event_callback = text_of("event_callback");
    if (const Node* nodes = get("num_nodes")) {
      constexpr std::int64_t kMost = 1'000'000;
      if (!nodes->is_int() || nodes->huge || nodes->integer < 1 || nodes->integer > kMost) {
        issues_.fail("num_nodes", nodes->mark,
                     fmt::format("num_nodes must be a positive integer, not {}", shown(*nodes)));
      } else {
        task_.num_nodes = static_cast<std::int32_t>(nodes->integer);
      }
    }
    if (const Node* access = config_.find("api_server_access")) {
      task_.api_server_access = access->is_bool() && access->boolean;
      task_.asks_api_server_access = task_.api_server_access;
    }
    if (const Node* workdir = get("workdir")) {
      if (workdir->is_string()) {
        task_.workdir = LocalWorkdir{workdir->text};
      } else {
        const Node* ref = workdir->find_value("ref");
        task_.workdir = GitWorkdir{workdir->find("url")->text,
                                   ref != nullptr ? std::optional(ref->text) : std::nullopt};
      }
    }
    for (const auto& [key, out] :
         {std::pair{"inputs", &task_.inputs}, std::pair{"outputs", &task_.outputs}}) {
      if (const Node* node = get(key)) {
        if (node->entries.empty()) {
          issues_.fail(key, node->mark, fmt::format("{} needs one URI: GB line", key));
        }
        *out = to_json(*node).as_object();
      }
    }
    if (const Node* node = get("file_mounts_mapping")) {
      task_.file_mounts_mapping = to_json(*node).as_object();
    }
    if (const Node* node = get("_metadata"); node != nullptr && !node->entries.empty()) {
      task_.metadata = to_json(*node).as_object();
    }
    if (const Node* node = get("volume_mounts")) {
      task_.volume_mounts = to_json(*node).as_array();
    }
    if (const Node* node = get("quad")) {
      read_quad(*node, task_, issues_);
    }
  }

  void read_mounts() {
    if (const Node* mounts = get("file_mounts")) {
      disks_ = read_file_mounts(*mounts, task_, issues_);
    }
    if (const Node* volumes = get("volumes")) {
      read_volumes(*volumes, task_, issues_);
    }
  }

  void read_config() {
    const Node* config = get("config");
    if (config == nullptr) {
      return;
    }
    task_.config = to_json(*config).as_object();
    task_.config.erase("hooks");
    const Node* hooks = config->find_value("hooks");
    if (hooks == nullptr) {
      return;
    }
    for (const Node& item : hooks->items) {
      Hook hook{item.find("run")->text, {"stop", "preemption", "down"}, 3600};
      if (const Node* events = item.find_value("events")) {
        hook.events.clear();
        for (const Node& event : events->items) {
          hook.events.push_back(event.text);
        }
      }
      if (const Node* timeout = item.find_value("timeout")) {
        hook.timeout_seconds = to_json(*timeout);
      }
      task_.hooks.push_back(std::move(hook));
    }
  }

  void read_resources_part() {
    const Node* written = get("resources");
    Node resources = written != nullptr ? *written : Node::make_mapping(config_.mark);
    if (Node* overrides = resources.find("_cluster_config_overrides")) {
      if (!task_.config.empty() && !overrides->is_null()) {
        issues_.fail(
            "resources._cluster_config_overrides", overrides->mark,
            "config and resources._cluster_config_overrides are the same; give only config");
        return;
      }
      if (overrides->is_mapping() && !overrides->entries.empty() &&
          check(*overrides, config_rule(), "resources._cluster_config_overrides", issues_)) {
        task_.config = to_json(*overrides).as_object();
      }
    }
    if (!disks_.empty()) {
      Node list = Node::make_sequence(disks_[0].mark);
      list.items = std::move(disks_);
      resources.set("volumes", std::move(list));
    }
    read_resources(resources, task_, issues_);
    check_repeated();
  }

  /// What stands beside the resources, but is made anew for each alternative.
  void check_repeated() {
    std::size_t weight = 0;
    for (const std::string_view key : {"config", "volumes", "managed_secrets"}) {
      const Node* node = get(key);
      weight += node != nullptr ? weight_of(*node) : 0;
    }
    if (task_.resources.size() > 1 && weight * task_.resources.size() > kMostRepeated) {
      issues_.fail("resources", config_.find("resources")->mark,
                   fmt::format("resources has {} alternatives, and each would repeat config and "
                               "volumes; that is more than any planner could weigh",
                               task_.resources.size()));
    }
  }

  void read_services() {
    const Node* service = get("service");
    const Node* pool = get("pool");
    if (service != nullptr && pool != nullptr) {
      issues_.fail("pool", pool->mark, "service and pool cannot both be given");
    } else if (service != nullptr) {
      read_service(*service, task_, issues_);
    } else if (pool != nullptr) {
      read_pool(*pool, task_, issues_);
    }
  }

  std::optional<std::string> value_of(std::string_view name) const {
    for (const Secret& secret : task_.secrets) {
      if (secret.value && secret.name == name) {
        return secret.value;
      }
    }
    for (const NamedValue& env : task_.envs) {
      if (env.first == name) {
        return env.second;
      }
    }
    return std::nullopt;
  }

  void add_registry_access() {
    const auto user = value_of("SKYPILOT_DOCKER_USERNAME");
    const auto password = value_of("SKYPILOT_DOCKER_PASSWORD");
    const auto server = value_of("SKYPILOT_DOCKER_SERVER");
    const auto pod_user = value_of("SKYPILOT_RUNPOD_DOCKER_USERNAME");
    for (Resources& alternative : task_.resources) {
      if (user && password && server) {
        if (alternative.container_image()) {
          alternative.docker_login = DockerLogin{*user, *password, *server};
        } else {
          issues_.warn("resources.image_id", config_.mark,
                       "the SKYPILOT_DOCKER_ variables are not used: image_id names no container");
        }
      }
      alternative.docker_username_for_runpod = pod_user;
    }
  }

  void add_fuse() {
    const bool mounted = std::any_of(
        task_.file_mounts.begin(), task_.file_mounts.end(),
        [](const FileMount& mount) { return mount.storage && mount.storage->mode != "COPY"; });
    for (Resources& alternative : task_.resources) {
      if (mounted) {
        alternative.requires_fuse = true;
      }
    }
  }

  Node config_;
  const Overrides& overrides_;
  Issues& issues_;
  Task task_;
  std::vector<Mark> env_marks_;  ///< of the first of task_.envs
  std::vector<Node> disks_;
};

}  // namespace

std::optional<Task> read_task(Node config, const Overrides& overrides, Issues& issues) {
  return TaskReader(std::move(config), overrides, issues).read();
}

}  // namespace quad::spec
