#include "runner/order.h"

#include <fmt/format.h>

namespace quad::runner {
namespace {

constexpr std::string_view kWorkdir = "~/sky_workdir";

// Python's json.dumps of a flat object: what SkyPilot puts into SKYPILOT_CLUSTER_INFO.
std::string dump_flat(const json::object& object) {
  std::string text = "{";
  for (const auto& member : object) {
    text += text.size() > 1 ? ", " : "";
    text += to_text(json::value(json::string(member.key())));
    text += ": ";
    text += to_text(member.value());
  }
  return text + "}";
}

Result<std::vector<Variable>> read_variables(const json::object& message, std::string_view key) {
  std::vector<Variable> variables;
  const json::array* pairs = get_array(message, key);
  if (pairs == nullptr) {
    return variables;
  }
  for (const json::value& pair : *pairs) {
    const json::array* both = pair.if_array();
    if (both == nullptr || both->size() != 2 || !(*both)[0].is_string() ||
        !(*both)[1].is_string()) {
      return error(ErrorCode::kInvalid,
                   fmt::format("The order's \"{}\" must hold pairs of name and value", key));
    }
    variables.push_back(
        {std::string((*both)[0].get_string()), std::string((*both)[1].get_string())});
  }
  return variables;
}

std::vector<std::string> read_strings(const json::object& message, std::string_view key) {
  std::vector<std::string> strings;
  if (const json::array* array = get_array(message, key)) {
    for (const json::value& value : *array) {
      strings.emplace_back(value.is_string() ? std::string_view(value.get_string())
                                             : std::string_view());
    }
  }
  return strings;
}

Result<Mount> read_mount(const json::object& object) {
  Mount mount;
  mount.dst = get_string(object, "dst");
  mount.blob = get_string(object, "blob");
  mount.is_file = get_bool(object, "is_file");
  mount.url = get_string(object, "url");
  mount.ref = get_string(object, "ref");
  const std::string_view kind = get_string(object, "kind");
  if (kind == "http") {
    mount.kind = Mount::Kind::kHttp;
  } else if (kind == "git") {
    mount.kind = Mount::Kind::kGit;
  } else if (kind != "blob") {
    return error(ErrorCode::kInvalid,
                 fmt::format("The mount {} has the kind \"{}\"; blob, http and git are known",
                             mount.dst, kind));
  }
  if (mount.dst.empty()) {
    return error(ErrorCode::kInvalid, "A mount of the order has no \"dst\"");
  }
  return mount;
}

}  // namespace

Result<Order> read_order(const json::object& message) {
  Order order;
  order.num_ranks = static_cast<std::int32_t>(get_int(message, "num_ranks", 1));
  order.ips = read_strings(message, "ips");
  order.task_id = get_string(message, "task_id");
  order.task_ids = get_string(message, "task_ids", order.task_id);
  order.user = get_string(message, "user");
  order.name = get_string(message, "name");
  if (const json::object* info = get_object(message, "cluster_info")) {
    order.cluster_info = dump_flat(*info);
  }
  order.jobgroup = get_string(message, "jobgroup");
  order.job_rank = get_int(message, "job_rank", 0);
  order.num_jobs = get_int(message, "num_jobs", 1);
  order.num_gpus = get_int(message, "num_gpus", 0);
  order.setup = get_string(message, "setup");
  order.run = get_string(message, "run");
  QUAD_ASSIGN(order.envs, read_variables(message, "envs"));
  QUAD_ASSIGN(order.secrets, read_variables(message, "secrets"));
  if (const json::object* workdir = get_object(message, "workdir")) {
    Mount mount;
    mount.dst = kWorkdir;
    if (const std::string_view url = get_string(*workdir, "git"); !url.empty()) {
      mount.kind = Mount::Kind::kGit;
      mount.url = url;
      mount.ref = get_string(*workdir, "ref");
    } else {
      mount.blob = get_string(*workdir, "blob");
    }
    order.mounts.push_back(std::move(mount));
  }
  if (const json::array* mounts = get_array(message, "mounts")) {
    for (const json::value& value : *mounts) {
      if (!value.is_object()) {
        return error(ErrorCode::kInvalid, "The order's \"mounts\" must hold objects");
      }
      QUAD_ASSIGN(Mount mount, read_mount(value.get_object()));
      order.mounts.push_back(std::move(mount));
    }
  }
  order.stop_grace = Millis(get_int(message, "stop_grace_ms", 30'000));
  order.stop_signal_to_all = get_string(message, "stop_signal_to") == "all";
  order.hold = get_bool(message, "hold");
  if (const json::object* checkpoint = get_object(message, "checkpoint")) {
    order.checkpoint.job_dir = get_string(*checkpoint, "job_dir");
    order.checkpoint.fence_wait = Millis(get_int(*checkpoint, "fence_wait_ms"));
    order.checkpoint.lease = Millis(get_int(*checkpoint, "lease_ms"));
    order.checkpoint.path = get_string(*checkpoint, "path");
    order.checkpoint.keep = get_int(*checkpoint, "keep");
    order.checkpoint.marker = get_string(*checkpoint, "marker");
  }
  if (order.num_ranks < 1) {
    return error(ErrorCode::kInvalid, "The order's \"num_ranks\" must be at least 1");
  }
  return order;
}

Go read_go(const json::object& message) {
  Go go;
  go.ips = read_strings(message, "ips");
  go.master_addr = get_string(message, "master_addr");
  go.master_port = get_int(message, "master_port");
  go.resume_from = get_string(message, "resume_from");
  go.resume_step = get_int(message, "resume_step", -1);
  return go;
}

}  // namespace quad::runner
