// One alternative of `resources`: every key that SkyPilot knows, read and brought into its normal
// form.

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "base/text.h"
#include "spec/accelerators.h"
#include "spec/grammar.h"
#include "spec/letters.h"
#include "spec/number.h"
#include "spec/readers.h"
#include "spec/task_grammar.h"

namespace quad::spec {

namespace {

/// Reads one alternative: a mapping of SkyPilot's keys, with at most one accelerator.
class CandidateReader {
 public:
  CandidateReader(const Node& node, std::string path, std::optional<Hook>& hook, Issues& issues)
      : node_(node), path_(std::move(path)), hook_(hook), issues_(issues) {}

  std::optional<Resources> read(const AcceleratorChoice* accelerator) {
    const std::size_t before = issues_.failures();
    read_place();
    read_strings();
    read_job_recovery();
    read_disk_size();
    if (const Node* ephemeral = get("ephemeral_storage")) {
      issues_.warn(join_path(path_, "ephemeral_storage"), ephemeral->mark,
                   "ephemeral_storage is deprecated and has no effect", "write disk_size");
    }
    read_image();
    read_tiers();
    read_ports();
    read_labels();
    read_cpus();
    read_memory();
    read_accelerator_and_args(accelerator);
    read_autostop();
    read_disks();
    read_local_disk();
    read_instance_type();
    constexpr int kMarkedLevels = 2;  // "job_recovery.strategy"
    r_.marks.add(node_, "resources", kMarkedLevels);
    if (accelerator != nullptr) {
      r_.marks.set("resources.accelerators", accelerator->mark);
    }
    return issues_.failures() == before ? std::optional(std::move(r_)) : std::nullopt;
  }

 private:
  const Node* get(std::string_view key) const { return node_.find_value(key); }

  void fail(std::string_view key, const Node& at, std::string message, std::string hint = {}) {
    issues_.fail(join_path(path_, key), at.mark, std::move(message), std::move(hint));
  }

  std::optional<std::string> text(std::string_view key) const {
    const Node* found = get(key);
    return found != nullptr && found->is_string() ? std::optional(found->text) : std::nullopt;
  }

  std::optional<bool> flag(std::string_view key) const {
    const Node* found = get(key);
    return found != nullptr && found->is_bool() ? std::optional(found->boolean) : std::nullopt;
  }

  void read_place() {
    const Node* infra = get("infra");
    if (infra != nullptr) {
      for (const std::string_view other : {"cloud", "region", "zone"}) {
        if (const Node* clash = get(other)) {
          fail(other, *clash,
               fmt::format("{0} and {1} cannot both be given; put the {2} into infra: "
                           "cloud/region/zone",
                           join_path(path_, "infra"), join_path(path_, other), other));
          return;
        }
      }
      read_infra(*infra);
      return;
    }
    if (const auto cloud = text("cloud")) {
      r_.cloud = to_lower(*cloud);
    }
    r_.region = text("region");
    r_.zone = text("zone");
  }

  void read_infra(const Node& node) {
    std::string_view trimmed = trim(node.text);
    while (trimmed.starts_with('/')) {
      trimmed.remove_prefix(1);
    }
    while (trimmed.ends_with('/')) {
      trimmed.remove_suffix(1);
    }
    std::vector<std::string> parts;
    for (const std::string_view part : split(trimmed, '/')) {
      parts.emplace_back(trim(part));
    }
    if (std::any_of(parts.begin(), parts.end(), [](const std::string& p) { return p.empty(); })) {
      fail("infra", node,
           fmt::format("{} has an empty part in {}", join_path(path_, "infra"), shown(node)));
      return;
    }
    const auto unless_any = [](const std::string& part) {
      return part == "*" ? std::nullopt : std::optional(part);
    };
    std::string cloud = to_lower(parts[0]);
    cloud = cloud == "k8s" ? "kubernetes" : cloud;
    r_.cloud = unless_any(cloud);
    if (cloud == "kubernetes" || cloud == "ssh") {
      // The whole rest is one name: contexts may have slashes in them.
      std::string rest;
      for (std::size_t i = 1; i < parts.size(); ++i) {
        rest += (i > 1 ? "/" : "") + parts[i];
      }
      if (!rest.empty()) {
        r_.region = unless_any(cloud == "ssh" ? "ssh-" + rest : rest);
      }
      return;
    }
    if (parts.size() > 1) {
      r_.region = unless_any(parts[1]);
    }
    if (parts.size() > 2) {
      r_.zone = unless_any(parts[2]);
    }
  }

  bool on_kubernetes() const { return r_.cloud == "kubernetes" || r_.cloud == "ssh"; }

  void read_strings() {
    r_.instance_type = text("instance_type");
    r_.use_spot = flag("use_spot");
    r_.requires_fuse = flag("_requires_fuse");
    r_.image_managed = flag("_is_image_managed");
    r_.no_missing_accelerator_warnings = flag("_no_missing_accel_warnings");
    if (const Node* cost = get("max_hourly_cost")) {
      r_.max_hourly_cost = cost->number;
    }
    if (const Node* priority = get("priority")) {
      r_.priority = static_cast<int>(priority->number);
    }
    if (const auto name = text("priority_class"); name && !trim(*name).empty()) {
      r_.priority_class = std::string(trim(*name));
    }
    if (const Node* login = get("_docker_login_config")) {
      fail("_docker_login_config", *login,
           "_docker_login_config is internal; set SKYPILOT_DOCKER_USERNAME, _PASSWORD and _SERVER "
           "under secrets instead");
    }
  }

  void read_job_recovery() {
    const Node* node = get("job_recovery");
    if (node == nullptr) {
      return;
    }
    JobRecovery recovery;
    if (node->is_string()) {
      recovery.strategy = node->text;
    } else {
      recovery.written = to_json(*node).as_object();
      if (const Node* strategy = node->find_value("strategy")) {
        recovery.strategy = strategy->text;
      }
      if (const Node* most = node->find_value("max_restarts_on_errors")) {
        constexpr double kMost = 1'000'000'000;
        recovery.max_restarts_on_errors = static_cast<std::int32_t>(std::min(most->number, kMost));
      }
      if (const Node* codes = node->find_value("recover_on_exit_codes")) {
        for (const Node& code : codes->items) {
          recovery.recover_on_exit_codes.push_back(static_cast<int>(code.number));
        }
        if (codes->is_number()) {
          recovery.recover_on_exit_codes = {static_cast<int>(codes->number)};
        }
      }
    }
    if (recovery.strategy == "none") {
      return;
    }
    if (recovery.strategy) {
      recovery.strategy = to_upper(*recovery.strategy);
      recovery.written["strategy"] = *recovery.strategy;
      if (recovery.strategy != "FAILOVER" && recovery.strategy != "EAGER_NEXT_REGION") {
        issues_.warn(join_path(path_, "job_recovery"), node->mark,
                     fmt::format("the recovery strategy {} is not one that Quad knows (FAILOVER, "
                                 "EAGER_NEXT_REGION); it recovers as usual",
                                 shown(*recovery.strategy)));
      }
    }
    r_.job_recovery = std::move(recovery);
  }

  void read_disk_size() {
    const Node* node = get("disk_size");
    if (node == nullptr) {
      return;
    }
    const auto size = parse_disk_gigabytes(python_str(*node));
    if (!size || *size <= 0) {
      fail(
          "disk_size", *node,
          fmt::format("{} must be a whole positive number of GB, such as 100, 256GB or 1TB, not {}",
                      join_path(path_, "disk_size"), shown(*node)));
      return;
    }
    constexpr std::int64_t kDefault = 256;  // which SkyPilot takes for "not given"
    if (*size != kDefault) {
      r_.disk_gigabytes = *size;
    }
  }

  void read_image() {
    const Node* node = get("image_id");
    if (node == nullptr) {
      return;
    }
    const auto add_docker_prefix = [&] {
      for (Image& image : r_.images) {
        if (on_kubernetes() && !image.image.starts_with("docker:")) {
          image.image.insert(0, "docker:");
        }
      }
    };
    if (node->is_string()) {
      r_.images.push_back({r_.region, std::string(trim(node->text))});
      add_docker_prefix();
      return;
    }
    std::optional<std::string> anywhere;
    for (const Entry& entry : node->entries) {
      const bool named = entry.key.is_string() || entry.key.is_null();
      if (!named || !entry.value.is_string()) {
        fail("image_id", entry.key,
             fmt::format("{} maps regions to image names; {} is none", join_path(path_, "image_id"),
                         named ? shown(entry.value) : shown(json_key(entry.key))));
        return;
      }
      std::string image(trim(entry.value.text));
      if (entry.key.is_null()) {
        anywhere = std::move(image);
      } else if (entry.key.text == "docker") {
        r_.docker_image = image.starts_with("docker:") ? image.substr(7) : image;
      } else {
        r_.images.push_back({std::string(trim(entry.key.text)), std::move(image)});
      }
    }
    if (anywhere) {
      r_.images = {{r_.region, *anywhere}};
    }
    for (const Image& image : r_.images) {
      if (r_.docker_image && image.image.starts_with("docker:")) {
        fail("image_id", *node,
             fmt::format("{} names a container twice: under docker and as {}; give one",
                         join_path(path_, "image_id"), shown(image.image)));
        return;
      }
    }
    add_docker_prefix();
  }

  void read_tier(std::string_view key, const std::vector<std::string_view>& known,
                 std::optional<std::string>& out) {
    const Node* node = get(key);
    if (node == nullptr) {
      return;
    }
    const std::string tier = to_lower(node->text);
    if (std::find(known.begin(), known.end(), tier) == known.end()) {
      const std::string hint(nearest(tier, known).value_or(""));
      fail(key, *node,
           fmt::format("{} must be one of {}, not {}", join_path(path_, key),
                       join_words(known, "or"), shown(*node)),
           hint);
      return;
    }
    out = tier;
  }

  void read_tiers() {
    read_tier("disk_tier", {"low", "medium", "high", "ultra", "best"}, r_.disk_tier);
    read_tier("network_tier", {"standard", "best"}, r_.network_tier);
  }

  std::optional<std::uint16_t> port(std::string_view digits) const {
    const bool plain = !digits.empty() && std::all_of(digits.begin(), digits.end(),
                                                      [](char c) { return c >= '0' && c <= '9'; });
    const auto value = plain ? python_int(digits) : std::nullopt;
    return value && *value >= 1 && *value <= 65535
               ? std::optional(static_cast<std::uint16_t>(*value))
               : std::nullopt;
  }

  void read_port_texts(const Node& node) {
    for (const std::string_view written : split(node.text, ',')) {
      const std::string_view token = trim(written);
      if (token.empty()) {
        continue;
      }
      const auto parts = split(token, '-');
      const auto first = port(parts[0]);
      const auto last = parts.size() == 2 ? port(parts[1]) : first;
      if (!first || !last || parts.size() > 2 || *first > *last) {
        fail("ports", node,
             fmt::format("{} must be ports from 1 to 65535, such as 8080 or 10-20, not {}",
                         join_path(path_, "ports"), shown(token)));
        return;
      }
      r_.ports.push_back({*first, *last});
    }
  }

  void read_ports() {
    const Node* node = get("ports");
    if (node == nullptr) {
      return;
    }
    const auto add = [&](const Node& item) {
      Node as_text = item;
      as_text.text = python_str(item);
      read_port_texts(as_text);
    };
    if (node->is_sequence()) {
      for (const Node& item : node->items) {
        add(item);
      }
    } else {
      add(*node);
    }
    std::sort(r_.ports.begin(), r_.ports.end(),
              [](PortRange a, PortRange b) { return a.first < b.first; });
    std::vector<PortRange> joined;
    for (const PortRange range : r_.ports) {
      if (!joined.empty() && range.first <= joined.back().last + 1) {
        joined.back().last = std::max(joined.back().last, range.last);
      } else {
        joined.push_back(range);
      }
    }
    r_.ports = std::move(joined);
  }

  void read_labels() {
    if (const Node* node = get("labels")) {
      for (const Entry& entry : node->entries) {
        r_.labels.emplace_back(json_key(entry.key), entry.value.text);
      }
    }
  }

  void read_cpus() {
    const Node* node = get("cpus");
    if (node == nullptr) {
      return;
    }
    CpuRequest request;
    request.text = python_str(*node);
    std::string_view digits = request.text;
    if (digits.ends_with('+')) {
      request.at_least = true;
      digits.remove_suffix(1);
    }
    const auto count = python_float(digits);
    constexpr double kMost = 1e6;
    if (!count || !(*count > 0) || *count > kMost) {
      fail("cpus", *node,
           fmt::format("{} must be a positive number or NUMBER+, such as 4 or \"4+\", not {}",
                       join_path(path_, "cpus"), shown(*node)));
      return;
    }
    request.milli = std::max<std::int64_t>(1, std::llround(*count * 1000));
    r_.cpus = std::move(request);
  }

  void read_memory() {
    const Node* node = get("memory");
    if (node == nullptr) {
      return;
    }
    const auto size = parse_memory(python_str(*node));
    const bool zero_allowed = r_.cloud == "slurm";
    constexpr double kMost = 1e9;
    if (!size || !(size->gigabytes >= 0) || size->gigabytes > kMost ||
        (size->gigabytes == 0 && !zero_allowed)) {
      fail("memory", *node,
           fmt::format("{} must be a positive size in GB or with a unit, such as 32, \"64+\" or "
                       "512MB, not {}",
                       join_path(path_, "memory"), shown(*node)));
      return;
    }
    MemoryRequest request;
    request.text = size->text;
    request.at_least = size->at_least;
    request.per_cpu = size->per_cpu;
    request.bytes = static_cast<std::int64_t>(std::ceil(size->gigabytes * 1024 * 1024 * 1024));
    r_.memory = std::move(request);
  }

  void read_accelerator_and_args(const AcceleratorChoice* accelerator) {
    if (const Node* args = get("accelerator_args")) {
      r_.accelerator_args = to_json(*args).as_object();
    }
    if (accelerator == nullptr) {
      return;
    }
    const std::string path = join_path(path_, "accelerators");
    r_.accelerator = read_accelerator(*accelerator, path, issues_);
    if (r_.accelerator && !accelerator->by_name) {
      r_.accelerator->by_name = false;
    }
    if (!accelerator->by_name) {
      r_.no_missing_accelerator_warnings = true;
    }
    if (r_.accelerator && to_lower(r_.accelerator->name).find("tpu") != std::string::npos) {
      read_tpu(*accelerator, path);
    }
  }

  /// TPUs exist on Google's cloud and its Kubernetes only; the runtime version has a default there.
  void read_tpu(const AcceleratorChoice& accelerator, const std::string& path) {
    const std::string& name = r_.accelerator->name;
    const std::vector<std::string_view> on_gke = {"tpu-v4-podslice", "tpu-v5-lite-device",
                                                  "tpu-v5-lite-podslice", "tpu-v5p-slice",
                                                  "tpu-v6e-slice"};
    const bool gke = std::find(on_gke.begin(), on_gke.end(), name) != on_gke.end();
    if (!r_.cloud) {
      r_.cloud = gke ? "kubernetes" : "gcp";
    }
    if (r_.cloud != "gcp" && r_.cloud != "kubernetes") {
      issues_.fail(path, accelerator.mark,
                   fmt::format("{} asks for {}, which exists on gcp and kubernetes only, not on {}",
                               path, shown(name), *r_.cloud));
      return;
    }
    if (!r_.accelerator_args) {
      r_.accelerator_args.emplace();
    }
    json::object& args = *r_.accelerator_args;
    if (r_.cloud != "gcp" || gke) {
      return;
    }
    const bool vm = get_bool(args, "tpu_vm", true);
    if (!args.contains("runtime_version")) {
      args["runtime_version"] = !vm                           ? "2.12.0"
                                : name.starts_with("tpu-v5")  ? "v2-alpha-tpuv5"
                                : name.starts_with("tpu-v6e") ? "v2-alpha-tpuv6e"
                                                              : "tpu-vm-base";
    }
    if (r_.instance_type && vm && *r_.instance_type != "TPU-VM") {
      fail("instance_type", *get("instance_type"),
           fmt::format("a TPU VM has no instance type; leave out {}",
                       join_path(path_, "instance_type")));
    }
  }

  void read_autostop() {
    const Node* node = get("autostop");
    if (node == nullptr) {
      return;
    }
    Autostop autostop;
    switch (node->kind) {
      case Node::Kind::kBool:
        autostop.enabled = node->boolean;
        break;
      case Node::Kind::kInt:
        autostop.idle_minutes = node->integer;
        if (node->huge) {
          fail(
              "autostop", *node,
              fmt::format("{} is too long a time: {}", join_path(path_, "autostop"), shown(*node)));
        }
        break;
      case Node::Kind::kString:
        if (const auto minutes = parse_minutes(node->text)) {
          autostop.idle_minutes = *minutes;
        } else {
          fail(
              "autostop", *node,
              fmt::format("{} is too long a time: {}", join_path(path_, "autostop"), shown(*node)));
        }
        break;
      case Node::Kind::kMapping:
        read_autostop_mapping(*node, autostop);
        break;
      default:
        return;  // 5.0 counts as an integer in the grammar, and SkyPilot then passes it over
    }
    r_.autostop = std::move(autostop);
  }

  void read_autostop_mapping(const Node& node, Autostop& autostop) {
    if (const Node* idle = node.find("idle_minutes")) {
      autostop.idle_minutes = static_cast<std::int64_t>(std::min(idle->number, 1e15));
    }
    if (const Node* down = node.find("down")) {
      autostop.down = down->boolean;
    }
    if (const Node* wait = node.find("wait_for")) {
      autostop.wait_for = to_lower(wait->text);
    }
    if (const Node* script = node.find("hook")) {
      Hook hook{script->text, {autostop.down ? "down" : "stop"}, 3600};
      if (const Node* timeout = node.find("hook_timeout")) {
        hook.timeout_seconds = to_json(*timeout);
      }
      if (!hook_) {
        hook_ = std::move(hook);
      }
      issues_.warn(join_path(path_, "autostop.hook"), script->mark,
                   "autostop.hook is an old spelling; write it under config.hooks");
    }
  }

  void read_disks() {
    const Node* node = get("volumes");
    if (node == nullptr) {
      return;
    }
    for (std::size_t i = 0; i < node->items.size(); ++i) {
      read_disk(node->items[i], fmt::format("{}[{}]", join_path(path_, "volumes"), i));
    }
  }

  /// The lower-case word of `key` if it is known, else `otherwise`, as SkyPilot falls back.
  static std::string known_word(const Node& disk, std::string_view key,
                                const std::vector<std::string_view>& known,
                                std::string_view otherwise) {
    const Node* found = disk.find_value(key);
    const std::string word = found != nullptr ? to_lower(found->text) : std::string(otherwise);
    return std::find(known.begin(), known.end(), word) != known.end() ? word
                                                                      : std::string(otherwise);
  }

  void read_disk(const Node& disk, const std::string& path) {
    if (disk.find("path") == nullptr) {
      issues_.fail(path, disk.mark, fmt::format("{} needs the key path", path));
      return;
    }
    json::object out = to_json(disk).as_object();
    const std::string type = known_word(disk, "storage_type", {"network", "instance"}, "network");
    out["storage_type"] = type;
    out["attach_mode"] = known_word(disk, "attach_mode", {"read_only", "read_write"}, "read_write");
    if (!out.contains("auto_delete")) {
      out["auto_delete"] = false;
    }
    const bool network = type == "network";
    if (const Node* size = disk.find("disk_size");
        size != nullptr && network && !size->is_number()) {
      issues_.fail(path + ".disk_size", size->mark,
                   fmt::format("{}.disk_size must be a number of GB, not {}", path, shown(*size)));
    }
    if (network && disk.find("name") == nullptr) {
      issues_.fail(path, disk.mark,
                   fmt::format("{} is a network disk and needs the key name", path));
    }
    if (!network) {
      out.erase("name");
    }
    if (network || disk.find("disk_tier") != nullptr) {
      out["disk_tier"] =
          known_word(disk, "disk_tier", {"low", "medium", "high", "ultra", "best"}, "best");
    }
    r_.disks.push_back(std::move(out));
  }

  void read_local_disk() {
    const Node* node = get("local_disk");
    if (node == nullptr) {
      return;
    }
    const std::string written = to_lower(trim(node->text));
    std::string mode = "nvme";
    std::string size = written;
    if (written == "nvme" || written == "ssd") {
      mode = written;
      size = "100+";
    } else if (const std::size_t colon = written.find(':'); colon != std::string::npos) {
      mode = written.substr(0, colon);
      size = written.substr(colon + 1);
    }
    std::string_view digits = size;
    while (digits.ends_with('+')) {
      digits.remove_suffix(1);
    }
    const auto gigabytes = python_float(digits);
    if ((mode != "nvme" && mode != "ssd") || !gigabytes || !(*gigabytes > 0)) {
      fail("local_disk", *node,
           fmt::format("{} must be MODE:SIZE with the mode nvme or ssd and a size in GB, such as "
                       "nvme:1000+, not {}",
                       join_path(path_, "local_disk"), shown(*node)));
      return;
    }
    r_.local_disk = mode + ":" + size;
  }

  /// On Kubernetes and Slurm an instance type is made of sizes ("4CPU--16GB",
  /// "4CPU--16GB--H100:1"), and gives the memory where that is not written.
  void read_instance_type() {
    if (!r_.instance_type || get("memory") != nullptr ||
        (r_.cloud != "kubernetes" && r_.cloud != "ssh" && r_.cloud != "slurm")) {
      return;
    }
    const std::string& type = *r_.instance_type;
    const std::size_t cpu = type.find("CPU--");
    const std::size_t gigabyte = cpu == std::string::npos ? cpu : type.find("GB", cpu);
    const auto plain = [](std::string_view text) {
      return !text.empty() && text.find_first_not_of("0123456789.") == std::string_view::npos &&
             python_float(text).has_value();
    };
    const std::string memory =
        gigabyte == std::string::npos ? std::string() : type.substr(cpu + 5, gigabyte - cpu - 5);
    const std::string rest = gigabyte == std::string::npos ? "" : type.substr(gigabyte + 2);
    if (!plain(memory) || !plain(std::string_view(type).substr(0, cpu)) ||
        (!rest.empty() && !rest.starts_with("--"))) {
      fail("instance_type", *get("instance_type"),
           fmt::format("{} must be <cpus>CPU--<memory>GB[--<accelerator>:<count>], such as "
                       "4CPU--16GB, not {}",
                       join_path(path_, "instance_type"), shown(type)));
      return;
    }
    constexpr double kMost = 1e9;
    const double gigabytes = std::min(python_float(memory).value_or(0), kMost);
    r_.memory =
        MemoryRequest{python_float_text(gigabytes),
                      static_cast<std::int64_t>(gigabytes * 1024 * 1024 * 1024), false, false};
  }

  const Node& node_;
  std::string path_;
  std::optional<Hook>& hook_;  ///< the first that any alternative's autostop has
  Issues& issues_;
  Resources r_;
};

}  // namespace

std::optional<Resources> read_candidate(const Node& node, std::string path,
                                        const AcceleratorChoice* accelerator,
                                        std::optional<Hook>& hook, Issues& issues) {
  return CandidateReader(node, std::move(path), hook, issues).read(accelerator);
}

}  // namespace quad::spec
