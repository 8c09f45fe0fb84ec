// `service` and `pool`.

#include <algorithm>

#include <fmt/format.h>

#include "base/text.h"
#include "spec/grammar.h"
#include "spec/number.h"
#include "spec/readers.h"
#include "spec/task_grammar.h"

namespace quad::spec {

namespace {

constexpr double kDefaultStreamTimeout = 120;
constexpr double kDefaultProbeInterval = 10;

class ServiceReader {
 public:
  /// `path` is what the section is called in messages; `config` has passed its rule.
  ServiceReader(const Node& config, std::string path, Issues& issues)
      : config_(config), path_(std::move(path)), issues_(issues) {}

  std::optional<Service> read() {
    const std::size_t before = issues_.failures();
    pool_ = config_.find_value("pool");
    service_.is_pool = pool_ != nullptr && !pool_->entries.empty();
    read_probe();
    read_ports();
    read_scale();
    if (issues_.failures() != before) {
      return std::nullopt;
    }
    service_.is_pool ? check_pool() : check_policy();
    if (issues_.failures() != before) {
      return std::nullopt;
    }
    service_.written = service_.is_pool ? pool_json() : service_json();
    return std::move(service_);
  }

 private:
  void fail(std::string_view key, Mark mark, std::string message) {
    issues_.fail(join_path(path_, key), mark, std::move(message));
  }

  static std::optional<double> number(const Node* map, std::string_view key) {
    const Node* found = map != nullptr ? map->find_value(key) : nullptr;
    return found != nullptr && found->is_number() ? std::optional(found->number) : std::nullopt;
  }

  static const Node* member(const Node* map, std::string_view key) {
    return map != nullptr ? map->find_value(key) : nullptr;
  }

  void read_probe() {
    const Node* probe = config_.find("readiness_probe");
    if (probe == nullptr) {
      return;
    }
    if (probe->is_null()) {
      fail("readiness_probe", probe->mark,
           fmt::format("{} is empty; write a path such as / or leave the key out",
                       join_path(path_, "readiness_probe")));
      return;
    }
    if (probe->is_mapping()) {
      probe_ = probe;
      service_.readiness_path = probe->find("path")->text;
      service_.initial_delay_seconds = number(probe, "initial_delay_seconds").value_or(1200);
      service_.timeout_seconds = number(probe, "timeout_seconds").value_or(15);
      read_post_data();
    } else {
      service_.readiness_path = probe->text;
    }
    if (!service_.readiness_path.starts_with('/')) {
      fail("readiness_probe", probe->mark,
           fmt::format("the path of {} must begin with /, not be {}",
                       join_path(path_, "readiness_probe"), shown(service_.readiness_path)));
    }
  }

  void read_post_data() {
    const Node* data = member(probe_, "post_data");
    if (data == nullptr) {
      return;
    }
    if (data->is_mapping()) {
      post_data_ = to_json(*data);
      return;
    }
    auto parsed = parse_json(data->text);
    if (!parsed) {
      fail("readiness_probe.post_data", data->mark,
           fmt::format("{} must be a mapping or JSON text, not {}",
                       join_path(path_, "readiness_probe.post_data"), shown(*data)));
      return;
    }
    post_data_ = std::move(parsed).value();
  }

  void read_ports() {
    const Node* ports = config_.find_value("ports");
    if (ports == nullptr) {
      return;
    }
    if (!ports->is_int() || ports->number < 1 || ports->number > 65535) {
      fail("ports", ports->mark,
           fmt::format("{} must be a port from 1 to 65535, not {}", join_path(path_, "ports"),
                       shown(*ports)));
      return;
    }
    service_.port = static_cast<int>(ports->integer);
  }

  /// How many replicas or workers, in any of the four ways of saying it.
  void read_scale() {
    const Node* policy = config_.find("replica_policy");
    const Node* replicas = config_.find("replicas");
    if (policy != nullptr && replicas != nullptr) {
      fail("replicas", replicas->mark,
           fmt::format("{0}.replicas and {0}.replica_policy cannot both be given", path_));
      return;
    }
    policy_ = config_.find_value("replica_policy");
    replicas = config_.find_value("replicas");
    const Node* workers = config_.find_value("workers");
    if (policy_ != nullptr && service_.is_pool) {
      fail("replica_policy", policy_->mark, "a pool has workers, not a replica_policy");
    }
    if (replicas != nullptr && workers != nullptr) {
      fail("workers", workers->mark,
           fmt::format("{0}.replicas and {0}.workers cannot both be given", path_));
    }
    if (replicas != nullptr && service_.is_pool) {
      fail("replicas", replicas->mark, "a pool has workers, not replicas");
    }
    const Node* simple = replicas != nullptr ? replicas : workers;
    std::optional<double> min_workers;
    if (pool_ != nullptr) {
      min_workers = number(pool_, "min_workers");
      max_ = number(pool_, "max_workers");
      threshold_ = number(pool_, "queue_length_threshold");
      upscale_ = member(pool_, "upscale_delay_seconds");
      downscale_ = member(pool_, "downscale_delay_seconds");
      workers = pool_->find("workers") != nullptr ? pool_->find_value("workers") : workers;
      check_workers(min_workers, workers != nullptr);
    }
    if (policy_ != nullptr && simple == nullptr) {
      min_ = number(policy_, "min_replicas").value_or(1);
      max_ = number(policy_, "max_replicas");
      upscale_ = member(policy_, "upscale_delay_seconds");
      downscale_ = member(policy_, "downscale_delay_seconds");
      qps_ = member(policy_, "target_qps_per_replica");
      return;
    }
    policy_ = nullptr;
    min_ = simple != nullptr ? simple->number : workers != nullptr ? workers->number : 1;
    if (pool_ != nullptr && max_) {
      threshold_ = threshold_.value_or(1);
      min_ = min_workers.value_or(min_);
    }
  }

  void check_workers(std::optional<double> min_workers, bool workers) {
    const std::string pool_path = path_.empty() ? "pool" : join_path(path_, "pool");
    const auto fault = [&](std::string message) {
      issues_.fail(pool_path, pool_->mark, std::move(message));
    };
    if (!min_workers && !max_ && !workers) {
      fault(fmt::format("{} needs workers, or both min_workers and max_workers", pool_path));
    } else if (threshold_ && !max_) {
      fault(fmt::format("{0}.queue_length_threshold needs {0}.max_workers", pool_path));
    } else if (min_workers && !max_) {
      fault(fmt::format("{0}.min_workers needs {0}.max_workers", pool_path));
    } else if (min_workers && *min_workers > *max_) {
      fault(fmt::format("{0}.min_workers is more than {0}.max_workers", pool_path));
    }
  }

  void check_bounds() {
    if (max_ && *max_ < min_) {
      fail(service_.is_pool ? "pool" : "replica_policy", config_.mark,
           fmt::format("the most replicas ({}) are fewer than the least ({})", *max_, min_));
    }
  }

  void check_pool() {
    for (const std::string_view key : {"load_balancing_policy", "ports", "tls"}) {
      if (const Node* found = config_.find_value(key)) {
        fail(key, found->mark, fmt::format("a pool cannot have {}", key));
      }
    }
    if (post_data_ || member(probe_, "headers") != nullptr) {
      fail("readiness_probe", probe_->mark, "the probe of a pool cannot have post_data or headers");
    }
    for (const auto& [key, node] : {std::pair{"upscale_delay_seconds", upscale_},
                                    std::pair{"downscale_delay_seconds", downscale_}}) {
      if (node != nullptr && !max_) {
        fail(fmt::format("pool.{}", key), node->mark,
             fmt::format("pool.{} is for a pool with max_workers only", key));
      }
    }
    check_bounds();
  }

  void check_policy() {
    check_bounds();
    if (qps_ != nullptr && !max_) {
      fail("replica_policy", qps_->mark,
           fmt::format("{0}.target_qps_per_replica needs {0}.max_replicas",
                       join_path(path_, "replica_policy")));
    }
    if (qps_ == nullptr && max_ && *max_ != min_) {
      fail(
          "replica_policy", config_.mark,
          fmt::format("{0}.min_replicas and {0}.max_replicas differ, so {0}.target_qps_per_replica "
                      "must say when to scale",
                      join_path(path_, "replica_policy")));
    }
    const Node* balancing = config_.find_value("load_balancing_policy");
    const std::string policy = balancing != nullptr ? balancing->text : "";
    const bool by_instance = policy == "instance_aware_least_load";
    if (balancing != nullptr && !by_instance && policy != "round_robin" && policy != "least_load") {
      fail("load_balancing_policy", balancing->mark,
           fmt::format("{} must be one of round_robin, least_load or instance_aware_least_load in "
                       "lower case, not {}",
                       join_path(path_, "load_balancing_policy"), shown(*balancing)));
    }
    if ((qps_ != nullptr && qps_->is_mapping()) != by_instance) {
      fail("load_balancing_policy", balancing != nullptr ? balancing->mark : config_.mark,
           "load_balancing_policy instance_aware_least_load and a mapping of accelerators under "
           "target_qps_per_replica need each other");
    }
  }

  static json::value plain(double value) {
    return is_whole(value) ? json::value(static_cast<std::int64_t>(value)) : json::value(value);
  }

  json::object pool_json() {
    json::object pool = to_json(*pool_).as_object();
    service_.min_replicas = static_cast<std::int64_t>(std::clamp(min_, 0.0, 1e9));
    if (max_) {
      service_.max_replicas = static_cast<std::int64_t>(std::clamp(*max_, 0.0, 1e9));
      pool["max_workers"] = plain(*max_);
      pool["queue_length_threshold"] = plain(*threshold_);
      pool["min_workers"] = plain(min_);
    } else {
      pool["workers"] = plain(min_);
    }
    return {{"pool", std::move(pool)}};
  }

  json::object service_json() {
    service_.min_replicas = static_cast<std::int64_t>(std::clamp(min_, -1e9, 1e9));
    json::object probe = {{"path", service_.readiness_path},
                          {"initial_delay_seconds", plain(service_.initial_delay_seconds)},
                          {"timeout_seconds", plain(service_.timeout_seconds)}};
    if (post_data_) {
      probe["post_data"] = *post_data_;
    }
    const auto interval = number(probe_, "endpoint_probe_interval_seconds");
    if (interval && *interval != kDefaultProbeInterval) {
      probe["endpoint_probe_interval_seconds"] = plain(*interval);
    }
    if (const auto threshold = number(probe_, "consecutive_failure_threshold_timeout")) {
      probe["consecutive_failure_threshold_timeout"] = plain(*threshold);
    }
    if (const Node* headers = member(probe_, "headers")) {
      probe["headers"] = to_json(*headers);
    }
    json::object policy = {{"min_replicas", plain(min_)}};
    if (max_) {
      service_.max_replicas = static_cast<std::int64_t>(std::clamp(*max_, -1e9, 1e9));
      policy["max_replicas"] = plain(*max_);
    }
    for (const std::string_view key :
         {"num_overprovision", "target_qps_per_replica", "dynamic_ondemand_fallback",
          "base_ondemand_fallback_replicas", "spot_placer"}) {
      if (const Node* found = member(policy_, key)) {
        policy[key] = to_json(*found);
      }
    }
    if (upscale_ != nullptr) {
      policy["upscale_delay_seconds"] = to_json(*upscale_);
    }
    if (downscale_ != nullptr) {
      policy["downscale_delay_seconds"] = to_json(*downscale_);
    }
    json::object out = {{"readiness_probe", std::move(probe)},
                        {"replica_policy", std::move(policy)}};
    const auto stream = number(config_.find_value("load_balancer"), "stream_timeout_seconds");
    if (stream && *stream != kDefaultStreamTimeout) {
      out["load_balancer"] = json::object{{"stream_timeout_seconds", plain(*stream)}};
    }
    if (const Node* balancing = config_.find_value("load_balancing_policy")) {
      out["load_balancing_policy"] = balancing->text;
    }
    if (service_.port) {
      out["ports"] = *service_.port;
    }
    if (const Node* tls = config_.find_value("tls")) {
      out["tls"] = to_json(*tls);
    }
    return out;
  }

  const Node& config_;
  std::string path_;
  Issues& issues_;
  Service service_;
  const Node* pool_ = nullptr;
  const Node* probe_ = nullptr;
  const Node* policy_ = nullptr;
  const Node* qps_ = nullptr;
  const Node* upscale_ = nullptr;
  const Node* downscale_ = nullptr;
  std::optional<json::value> post_data_;
  double min_ = 1;
  std::optional<double> max_;
  std::optional<double> threshold_;
};

}  // namespace

void read_service(const Node& node, Task& task, Issues& issues) {
  if (check(node, service_rule(), "service", issues, Nulls::kAbsentIfUnknown)) {
    task.service = ServiceReader(node, "service", issues).read();
  }
}

void read_pool(const Node& node, Task& task, Issues& issues) {
  // A pool is a service that has only this section, so its keys are checked and named as they are
  // written.
  Node wrapped = Node::make_mapping(node.mark);
  wrapped.set("pool", node);
  if (check(wrapped, service_rule(), "", issues, Nulls::kAbsentIfUnknown)) {
    task.service = ServiceReader(wrapped, "", issues).read();
  }
}

}  // namespace quad::spec
