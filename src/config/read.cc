// Settings → Config: each value in its own type, and the checks that no single key can tell.

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include <fmt/format.h>

#include "base/text.h"
#include "config/checks.h"
#include "config/config.h"
#include "config/keys.h"
#include "config/resolve.h"
#include "config/words.h"
#include "spec/grammar.h"
#include "spec/letters.h"
#include "spec/number.h"
#include "spec/yaml.h"

namespace quad::config {

namespace {

using spec::Node;

/// A number that the grammar has let pass as an integer; empty for any other.
std::optional<std::int64_t> whole(const Node& node) {
  constexpr double kMost = 2e9;
  return node.is_number() && std::abs(node.number) <= kMost
             ? std::optional(static_cast<std::int64_t>(node.number))
             : std::nullopt;
}

class Reader {
 public:
  Reader(const Settings& settings, std::string_view folder, spec::Issues& issues)
      : settings_(settings), folder_(folder), issues_(issues) {}

  Config read() {
    Config config;
    config.listen = text("listen");
    config.port = static_cast<int>(integer("port").value_or(-1));
    config.url = text("url");
    config.tls = {path("tls.certificate"), path("tls.key"), path("tls.ca")};
    check_access(config);
    config.runners_over_tcp = flag("runners_over_tcp");
    read_times(config);
    config.spool_bytes = bounded_bytes("spool", 1'000'000, 1'000'000'000'000'000);
    config.hot_tier = hot_tier("hot_tier", {});
    config.jobs = read_jobs();
    config.users = read_users();
    if (settings_.has_local()) {
      config.local = read_local();
    }
    for (const std::string& name : settings_.kubernetes()) {
      config.kubernetes.push_back(read_kubernetes(name, config));
    }
    check_no_engine_twice(config);
    check_finite();
    return config;
  }

 private:
  std::string text(const std::string& key) const {
    const Node* value = settings_.value(key);
    return value != nullptr && value->is_string() ? value->text : "";
  }
  std::string path(const std::string& key) const {
    const Setting* setting = settings_.find(key);
    const std::string written = text(key);
    const bool from_folder = setting != nullptr && setting->layer == Setting::Layer::kFile &&
                             !written.empty() && written.front() != '/' && !folder_.empty();
    return from_folder ? fmt::format("{}/{}", folder_, written) : written;
  }
  bool flag(const std::string& key) const {
    const Node* value = settings_.value(key);
    return value != nullptr && value->is_bool() && value->boolean;
  }
  std::optional<std::int64_t> integer(const std::string& key) const {
    const Node* value = settings_.value(key);
    return value != nullptr ? whole(*value) : std::nullopt;
  }
  std::optional<Millis> duration(const std::string& key) const {
    const Node* value = settings_.value(key);
    return value != nullptr ? duration_of(*value) : std::nullopt;
  }
  std::vector<std::string> texts(const std::string& key) const {
    std::vector<std::string> out;
    if (const Node* value = settings_.value(key)) {
      for (const Node& item : value->items) {
        out.push_back(item.text);
      }
    }
    return out;
  }

  void fail(const std::string& key, std::string message, std::string hint = {}) {
    const Setting* setting = settings_.find(key);
    const bool written = setting != nullptr && setting->layer == Setting::Layer::kFile;
    issues_.fail(key, written ? setting->value.mark : engine_mark_, std::move(message),
                 std::move(hint));
  }
  void warn(const std::string& key, std::string message) {
    const Setting* setting = settings_.find(key);
    issues_.warn(key, setting != nullptr ? setting->value.mark : engine_mark_, std::move(message));
  }
  /// The key as the writer wrote it: a flag, where it is from one.
  std::string spelled(const std::string& key) const {
    const Setting* setting = settings_.find(key);
    return setting != nullptr && !setting->flag.empty() ? setting->flag : key;
  }
  bool is_written(const std::string& key) const {
    const Setting* setting = settings_.find(key);
    return setting != nullptr && setting->layer != Setting::Layer::kDefault;
  }

  void check_access(const Config& config) {
    const bool certificate = !config.tls.certificate.empty();
    if (certificate == config.tls.key.empty()) {
      const std::string given = certificate ? "tls.certificate" : "tls.key";
      fail(given, fmt::format("{} is alone: certificate and key of TLS belong together; give both, "
                              "or neither",
                              spelled(given)));
    }
  }

  Millis bounded(const std::string& key, Millis least, Millis most) {
    const auto value = duration(key);
    if (value && (*value < least || *value > most)) {
      fail(key,
           fmt::format("{} must be between {} and {}, not {}", spelled(key), format_duration(least),
                       format_duration(most), format_duration(*value)));
    }
    return value.value_or(least);
  }
  std::int64_t bounded_bytes(const std::string& key, std::int64_t least, std::int64_t most) {
    const Node* node = settings_.value(key);
    const auto value = node != nullptr ? bytes_of(*node) : std::nullopt;
    if (node != nullptr && (!value || *value < least || *value > most)) {
      fail(key, fmt::format("{} must be between {:g} and {:g} GB, not {}", spelled(key),
                            static_cast<double>(least) / 1e9, static_cast<double>(most) / 1e9,
                            spec::shown(*node)));
    }
    return value.value_or(0);
  }
  std::int64_t bytes(const std::string& key) { return bounded_bytes(key, 1'000'000, kMostBytes); }
  std::int64_t milli(const std::string& key) {
    const Node* node = settings_.value(key);
    const auto value = node != nullptr ? milli_of(*node) : std::nullopt;
    if (node != nullptr && (!value || *value < 1)) {
      fail(key, fmt::format("{} must be a number between 0.001 and 1000000, not {}", spelled(key),
                            spec::shown(*node)));
    }
    return value.value_or(0);
  }
  std::optional<Millis> positive(const std::string& key) {
    const auto value = duration(key);
    if (value && *value <= Millis(0)) {
      fail(key, fmt::format("{} must be longer than nothing", spelled(key)));
    }
    return value;
  }

  void read_times(Config& config) {
    using std::chrono::hours;
    using std::chrono::seconds;
    config.node_lost_after = bounded("node_lost_after", seconds(1), hours(24));
    config.suspect_after = bounded("suspect_after", Millis(100), hours(24));
    config.strict_lease = bounded("strict_lease", seconds(3), hours(1));
    if (config.suspect_after > config.node_lost_after) {
      if (is_written("suspect_after")) {
        fail("suspect_after",
             fmt::format("suspect_after ({}) must not be longer than {} ({})",
                         format_duration(config.suspect_after), spelled("node_lost_after"),
                         format_duration(config.node_lost_after)));
      }
      config.suspect_after = config.node_lost_after;
    }
  }

  /// `standard` counts where this one names no storage, or no place to mount it.
  HotTier hot_tier(const std::string& key, const HotTier& standard) {
    HotTier tier;
    tier.host_path = text(key + ".host_path");
    tier.nfs_server = text(key + ".nfs.server");
    tier.nfs_path = text(key + ".nfs.path");
    tier.pvc = text(key + ".pvc");
    const bool nfs = !tier.nfs_server.empty() || !tier.nfs_path.empty();
    std::vector<std::string_view> given;
    const auto note = [&](bool is, std::string_view name) {
      if (is) {
        given.push_back(name);
      }
    };
    note(!tier.host_path.empty(), "host_path");
    note(nfs, "nfs");
    note(!tier.pvc.empty(), "pvc");
    if (given.size() > 1) {
      const std::string second = fmt::format("{}.{}{}", key, given[1],
                                             given[1] != "nfs"         ? ""
                                             : tier.nfs_server.empty() ? ".path"
                                                                       : ".server");
      fail(second, fmt::format("{} has {}, but there is one hot tier: keep one of them", key,
                               join_words(given)));
    } else if (nfs && (tier.nfs_server.empty() || tier.nfs_path.empty())) {
      const std::string there = key + (tier.nfs_server.empty() ? ".nfs.path" : ".nfs.server");
      fail(there, fmt::format("{0}.nfs needs both, {0}.nfs.server and {0}.nfs.path", key));
    }
    if (nfs && !tier.nfs_path.empty() && !is_absolute_folder(tier.nfs_path) &&
        tier.nfs_path != "/") {
      fail(key + ".nfs.path", fmt::format("{}.nfs.path must be an absolute path, not {}", key,
                                          spec::shown(tier.nfs_path)));
    }
    if (given.empty()) {
      tier = standard;
    }
    const std::string mount = text(key + ".mount");
    tier.mount = mount.empty() ? standard.mount : mount;
    return tier;
  }

  std::map<std::string, User> read_users() {
    std::map<std::string, User> users;
    const Node* all = settings_.value("users");
    for (const spec::Entry& entry :
         all != nullptr && all->is_mapping() ? all->entries : std::vector<spec::Entry>()) {
      const std::string name = spec::json_key(entry.key);
      const Node& said = entry.value;
      User user;
      if (said.is_string()) {
        user.account = said.text;
      } else if (said.is_mapping()) {
        user = read_user(fmt::format("users.{}", name), said);
      }
      users.emplace(name, std::move(user));
    }
    return users;
  }

  User read_user(const std::string& key, const Node& said) {
    const auto id = [](const Node* node) -> std::optional<std::uint32_t> {
      constexpr double kMost = 4'294'967'294;
      const bool fits =
          node != nullptr && node->is_number() && node->number >= 0 && node->number <= kMost;
      return fits ? std::optional(static_cast<std::uint32_t>(node->number)) : std::nullopt;
    };
    User user;
    const Node* account = said.find_value("account");
    const Node* gid = said.find_value("gid");
    const Node* groups = said.find_value("groups");
    user.account = account != nullptr && account->is_string() ? account->text : "";
    user.uid = id(said.find_value("uid"));
    if (account != nullptr && (said.find_value("uid") != nullptr || gid != nullptr)) {
      issues_.fail(key, said.mark,
                   fmt::format("{} has account and numbers: an account has a uid and groups of its "
                               "own; keep one of them",
                               key));
    } else if (account == nullptr && said.find_value("uid") == nullptr) {
      issues_.fail(key, said.mark,
                   fmt::format("{} needs an account of the machine, or a uid", key));
    }
    user.gid = id(gid).value_or(user.uid.value_or(0));
    if (groups != nullptr) {
      for (const Node& group : groups->items) {
        user.groups.push_back(id(&group).value_or(0));
      }
    }
    return user;
  }

  Jobs read_jobs() {
    Jobs jobs;
    const std::string d = "jobs.defaults.";
    jobs.defaults = {text(d + "image"),           milli(d + "cpus"),
                     bytes(d + "memory"),         milli(d + "cpus_per_gpu"),
                     bytes(d + "memory_per_gpu"), positive(d + "max_duration")};
    jobs.limits.max_duration = positive("jobs.limits.max_duration");
    jobs.limits.active_per_user = *integer("jobs.limits.active_per_user");
    const auto& limit = jobs.limits.max_duration;
    auto& standard = jobs.defaults.max_duration;
    if (limit && standard && *standard > *limit) {
      fail("jobs.defaults.max_duration",
           fmt::format("jobs.defaults.max_duration ({}) must not be longer than "
                       "jobs.limits.max_duration ({})",
                       format_duration(*standard), format_duration(*limit)));
    }
    standard = standard ? standard : limit;
    return jobs;
  }

  Local read_local() {
    Local local;
    const std::string e = "engines.local.";
    local.nodes = static_cast<int>(integer(e + "nodes").value_or(0));
    local.gpus = text(e + "gpus");
    local.cpu_milli = milli(e + "cpus");
    local.memory_bytes = bytes(e + "memory");
    if (const auto range = uid_range_of(text(e + "reserved_uids"))) {
      std::tie(local.first_reserved_uid, local.last_reserved_uid) = *range;
    }
    local.processes = static_cast<int>(integer(e + "processes").value_or(0));
    local.environment = texts(e + "environment");
    for (const char* name : {"gpus", "cpus", "memory"}) {
      if (local.nodes == 0 && settings_.value(e + name) != nullptr) {
        fail(e + name,
             fmt::format("{} can be chosen for pretend nodes only; give {} too", spelled(e + name),
                         spelled(e + name) == e + name ? e + "nodes" : "--nodes"));
      }
    }
    return local;
  }

  Choice choice(const std::string& key) {
    Choice out{text(key + ".default"), texts(key + ".allowed")};
    if (!out.standard.empty() && !out.allowed.empty() &&
        std::find(out.allowed.begin(), out.allowed.end(), out.standard) == out.allowed.end()) {
      fail(key + ".default", fmt::format("{0}.default is {1}, which {0}.allowed does not have", key,
                                         spec::shown(out.standard)));
    }
    return out;
  }

  std::optional<Rdma> rdma(const std::string& key) {
    const Node* resources = settings_.value(key + ".resources");
    const Node* networks = settings_.value(key + ".networks");
    const Node* env = settings_.value(key + ".env");
    if (resources == nullptr && networks == nullptr && env == nullptr) {
      return std::nullopt;
    }
    Rdma out;
    if (resources != nullptr) {
      if (resources->is_string()) {
        out.resources.emplace_back(resources->text, 1);
      }
      for (const Node& item : resources->items) {
        out.resources.emplace_back(item.text, 1);
      }
      for (const spec::Entry& entry : resources->entries) {
        out.resources.emplace_back(entry.key.text, whole(entry.value).value_or(0));
      }
    }
    out.networks = text(key + ".networks");
    if (env != nullptr) {
      for (const spec::Entry& entry : env->entries) {
        out.env.emplace_back(entry.key.text, entry.value.text);
      }
    }
    return out;
  }

  /// What each layer says, the farthest first: each is merged over the one before.
  std::vector<json::object> layered(const std::string& engine, std::string_view name) const {
    std::vector<json::object> out;
    for (const Node* layer : settings_.layers(engine)) {
      if (const Node* found = layer->find_value(name); found != nullptr && found->is_mapping()) {
        out.insert(out.begin(), to_json(*found).as_object());
      }
    }
    return out;
  }

  Kubernetes read_kubernetes(const std::string& name, const Config& config) {
    const std::string e = "engines." + name + ".";
    Kubernetes out;
    engine_mark_ = settings_.mark_of(name);
    out.name = name;
    out.in_cluster = flag(e + "in_cluster");
    out.kubeconfig = path(e + "kubeconfig");
    out.context = settings_.context_of(name);
    out.in_namespace = text(e + "namespace");
    out.image = text(e + "image");
    out.default_image = text(e + "default_image");
    out.server_url = text(e + "server_url");
    check_reach(out, config, e);
    out.default_image = out.default_image.empty() ? config.jobs.defaults.image : out.default_image;
    out.server_url = out.server_url.empty() ? config.url : out.server_url;
    out.storage_classes = choice(e + "storage_classes");
    out.priority_classes = choice(e + "priority_classes");
    out.allow_host_paths = texts(e + "allow_host_paths");
    out.allow_pod_config = texts(e + "allow_pod_config");
    out.allow_secrets = texts(e + "allow_secrets");
    out.reserved_names = texts(e + "reserved_names");
    out.runtime_class = text(e + "runtime_class");
    if (const Node* labels = settings_.value(e + "node_selector")) {
      for (const spec::Entry& entry : labels->entries) {
        out.node_selector[entry.key.text] = entry.value.text;
      }
    }
    if (const Node* tolerations = settings_.value(e + "tolerations");
        tolerations != nullptr && tolerations->is_sequence()) {
      out.tolerations = to_json(*tolerations).as_array();
    }
    out.pod_config = layered(name, "pod_config");
    out.custom_metadata = layered(name, "custom_metadata");
    out.rdma = rdma(e + "rdma");
    out.image_pull_secrets = texts(e + "image_pull_secrets");
    if (const Node* rate = settings_.value(e + "write_rate")) {
      out.write_rate = rate->number;
    }
    out.write_burst = static_cast<int>(integer(e + "write_burst").value_or(0));
    out.out_of_service_taint = flag(e + "out_of_service_taint");
    const Node* patience = settings_.value(e + "provision_timeout");
    if (patience != nullptr && !(patience->is_number() && patience->number < 0)) {
      out.provision_timeout = positive(e + "provision_timeout");
    }
    out.autoscaler = spec::to_lower(text(e + "autoscaler"));
    if (!out.autoscaler.empty()) {
      warn(e + "autoscaler",
           fmt::format("{}autoscaler has no effect yet: a job waits in Quad's queue, where an "
                       "autoscaler does not see it, until nodes that hold it are there",
                       e));
    }
    out.hot_tier = hot_tier(e + "hot_tier", config.hot_tier);
    return out;
  }

  /// How the server reaches the cluster, and its pods the server.
  void check_reach(const Kubernetes& engine, const Config& config, const std::string& e) {
    for (const char* other : {"kubeconfig", "context"}) {
      if (engine.in_cluster && is_written(e + other)) {
        fail(e + other, fmt::format("{0}in_cluster is true, so there is no kubeconfig: take out "
                                    "{0}{1}, or in_cluster",
                                    e, other));
      }
    }
    if (engine.in_cluster) {
      return;
    }
    if (engine.image.empty()) {
      fail(e + "image", fmt::format("{}image is needed: Quad's own image, which brings the runner "
                                    "into each pod",
                                    e));
    }
    if (engine.server_url.empty() && config.url.empty()) {
      fail(e + "server_url",
           fmt::format("{}server_url (or url for all) is needed: where pods reach "
                       "this server",
                       e));
    }
  }

  /// The grammar lets NaN pass, as Python does.
  void check_finite() {
    for (const Setting& one : settings_.all()) {
      if (one.value.kind == Node::Kind::kFloat && !std::isfinite(one.value.number)) {
        fail(one.key,
             fmt::format("{} must be a number, not {}", spelled(one.key), spec::shown(one.value)));
      }
    }
  }

  /// Two engines on one namespace would each take the other's pods for left-overs.
  void check_no_engine_twice(const Config& config) {
    std::set<std::string> seen;
    for (const Kubernetes& one : config.kubernetes) {
      engine_mark_ = settings_.mark_of(one.name);
      if (!seen.insert(fmt::format("{}\n{}\n{}\n{}", one.in_cluster, one.kubeconfig, one.context,
                                   one.in_namespace))
               .second) {
        fail("engines." + one.name + ".context",
             fmt::format("engines.{} has the same context and namespace as another engine",
                         one.name));
      }
    }
  }

  static constexpr std::int64_t kMostBytes = 1'000'000'000'000'000'000;
  const Settings& settings_;
  std::string_view folder_;
  spec::Issues& issues_;
  spec::Mark engine_mark_;  ///< of the engine that is read, for what it lacks
};

/// Flags for an engine that the file leaves out would count for nothing.
void check_overrides(const Settings& settings, const std::vector<Override>& overrides,
                     spec::Issues& issues) {
  for (const Override& one : overrides) {
    if (settings.find(one.key) == nullptr) {
      issues.fail(one.key, {},
                  fmt::format("{} is for the local engine, which the configuration does not have; "
                              "add local: {{}} under engines",
                              one.flag));
    }
  }
}

}  // namespace

Loaded read_config(std::string_view yaml, const std::vector<Override>& overrides,
                   std::string_view folder) {
  Loaded out;
  spec::YamlStream stream = spec::read_yaml(yaml);
  if (stream.error) {
    out.errors.push_back(std::move(*stream.error));
    return out;
  }
  spec::Issues issues;
  Node root = stream.documents.empty() ? Node() : std::move(stream.documents.front());
  if (stream.documents.size() > 1) {
    issues.fail("", stream.documents[1].mark,
                "the configuration is one document; take out what follows the second ---");
  }
  if (root.is_null()) {
    root = Node::make_mapping({1, 1});
  } else if (!root.is_mapping()) {
    issues.fail(
        "", root.mark,
        fmt::format("the configuration is a mapping of keys such as listen and engines, not {}",
                    spec::shown(root)));
    out.errors = issues.errors();
    return out;
  }
  explain_others(root, issues);
  drop_empty(root, config_rule());
  spec::check(root, config_rule(), "", issues);
  const Settings settings(root, overrides);
  check_overrides(settings, overrides, issues);
  out.config = Reader(settings, folder, issues).read();
  refuse_secrets(settings, issues);
  out.settings = settings.all();
  out.errors = issues.errors();
  out.warnings = issues.warnings();
  std::stable_sort(out.errors.begin(), out.errors.end(), [](const auto& a, const auto& b) {
    return std::pair(a.line, a.column) < std::pair(b.line, b.column);
  });
  return out;
}

const Config& default_config() {
  static const Config config = read_config("").config;
  return config;
}

}  // namespace quad::config
