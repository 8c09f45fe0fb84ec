#include "runner/environment.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

namespace quad::runner {
namespace {

// A list of exports in which a later value replaces an earlier one, at the later one's place: so it
// is what the shell would end up with.
class Exports {
 public:
  void set(std::string_view name, std::string value) {
    if (const auto known = places_.find(std::string(name)); known != places_.end()) {
      variables_[known->second].name.clear();
    }
    places_[std::string(name)] = variables_.size();
    variables_.push_back({std::string(name), std::move(value)});
  }

  std::vector<Variable> take() {
    std::erase_if(variables_, [](const Variable& variable) { return variable.name.empty(); });
    return std::move(variables_);
  }

 private:
  std::vector<Variable> variables_;
  std::unordered_map<std::string, std::size_t> places_;
};

std::string join_lines(const std::vector<std::string>& lines) {
  return fmt::format("{}", fmt::join(lines, "\n"));
}

void add_task_variables(Exports& exports, const Order& order) {
  for (const Variable& variable : order.envs) {
    exports.set(variable.name, variable.value);
  }
  for (const Variable& variable : order.secrets) {
    exports.set(variable.name, variable.value);
  }
}

// What setup and run both see.
void add_common(Exports& exports, const Start& start, const Order& order, const Places& places) {
  const std::string job = std::to_string(start.key.job.value());
  exports.set("SKYPILOT_NUM_NODES", std::to_string(order.num_ranks));
  exports.set("SKYPILOT_TASK_ID", order.task_id);
  exports.set("SKYPILOT_TASK_IDS", order.task_ids);
  exports.set("SKYPILOT_MANAGED_JOB_ID", job);
  exports.set("SKYPILOT_JOB_RANK", std::to_string(order.job_rank));
  exports.set("SKYPILOT_NUM_JOBS", std::to_string(order.num_jobs));
  if (!order.jobgroup.empty()) {
    exports.set("SKYPILOT_JOBGROUP_NAME", order.jobgroup);
  }
  exports.set("SKYPILOT_CLUSTER_INFO", order.cluster_info);
  exports.set("SKYPILOT_USER", order.user);
  exports.set("QUAD_JOB_ID", job);
  exports.set("QUAD_EPOCH", std::to_string(start.key.epoch.value()));
  exports.set("QUAD_RANK", std::to_string(start.key.rank.value()));
  exports.set("QUAD_NUM_RANKS", std::to_string(order.num_ranks));
  if (!order.checkpoint.job_dir.empty()) {
    exports.set("QUAD_CHECKPOINT_DIR",
                fmt::format("{}/e{}", order.checkpoint.job_dir, start.key.epoch.value()));
  }
  exports.set("QUAD_PROGRESS", places.progress.string());
}

// The variables of the runner's own process that a rank must not see: they were meant for the
// server or for a rank of an earlier life.
bool is_foreign(std::string_view entry) {
  return entry.starts_with("SKYPILOT_") || entry.starts_with("QUAD_") ||
         entry.starts_with("HOME=") || entry.starts_with("PWD=") || entry.starts_with("OLDPWD=") ||
         entry.starts_with("SHLVL=") || entry.starts_with("_=") || entry.starts_with("SHELL=");
}

bool has_name(const std::vector<std::string>& environment, std::string_view name) {
  return std::any_of(environment.begin(), environment.end(), [&](const std::string& entry) {
    return entry.size() > name.size() && entry.starts_with(name) && entry[name.size()] == '=';
  });
}

}  // namespace

std::vector<std::string> process_environment(const std::vector<std::string>& inherited,
                                             const Start& start, const Order& order,
                                             const Places& places) {
  std::vector<std::string> result;
  result.reserve(inherited.size() + 12);
  for (const std::string& entry : inherited) {
    // A pod's own variables come from the engine, which knows them better.
    const bool of_pod = entry.starts_with("SKYPILOT_POD_");
    if (of_pod || !is_foreign(entry)) {
      result.push_back(entry);
    }
  }
  const auto add = [&](std::string_view name, std::string_view value) {
    result.push_back(fmt::format("{}={}", name, value));
  };
  const auto add_missing = [&](std::string_view name, std::string_view value) {
    if (!has_name(result, name)) {
      add(name, value);
    }
  };
  add("HOME", places.home.string());
  add_missing("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  if (!order.user.empty()) {
    add_missing("USER", order.user);
    add_missing("LOGNAME", order.user);
  }
  add_missing("SKYPILOT_POD_NODE_TYPE", start.key.rank.value() == 0 ? "head" : "worker");
  if (start.cpu_milli > 0) {
    add_missing("SKYPILOT_POD_CPU_CORE_LIMIT", std::to_string((start.cpu_milli + 999) / 1000));
  }
  if (start.memory_bytes > 0) {
    add_missing("SKYPILOT_POD_MEMORY_BYTES_LIMIT", std::to_string(start.memory_bytes));
  }
  if (order.num_gpus == 0) {
    std::erase_if(result, [](const std::string& entry) {
      return entry.starts_with("NVIDIA_VISIBLE_DEVICES=");
    });
    add("NVIDIA_VISIBLE_DEVICES", "none");
  }
  add(kRankKeyVariable, to_string(start.key));
  add(kRankFolderVariable, places.folder.string() + "/");
  if (!start.holder.empty()) {
    add(kHolderKeyVariable, start.holder);
  }
  return result;
}

std::vector<Variable> setup_exports(const Start& start, const Order& order, const Places& places) {
  Exports exports;
  add_task_variables(exports, order);
  exports.set("SKYPILOT_SETUP_NODE_RANK", std::to_string(start.key.rank.value()));
  exports.set("SKYPILOT_SETUP_NODE_IPS", join_lines(order.ips));
  exports.set("SKYPILOT_SETUP_NUM_GPUS_PER_NODE", std::to_string(order.num_gpus));
  add_common(exports, start, order, places);
  return exports.take();
}

std::vector<Variable> run_exports(const Start& start, const Order& order, const Go& go,
                                  const Places& places) {
  Exports exports;
  if (!start.gpu_env.empty()) {
    exports.set(start.gpu_env, fmt::format("{}", fmt::join(start.gpus, ",")));
  }
  exports.set("MASTER_ADDR", go.master_addr);
  exports.set("MASTER_PORT", std::to_string(go.master_port));
  // How mpirun reaches the other ranks of a gang without ssh. It cuts the agent at spaces. The
  // hosts are not its default: an mpirun that names none means its own rank.
  if (order.num_ranks > 1 && !places.program.empty() &&
      places.program.find(' ') == std::string::npos) {
    exports.set("QUAD_HOSTFILE", places.hostfile().string());
    exports.set("OMPI_MCA_plm_rsh_agent", places.program + " rsh");
  }
  add_task_variables(exports, order);
  exports.set("SKYPILOT_NODE_RANK", std::to_string(start.key.rank.value()));
  exports.set("SKYPILOT_NODE_IPS", join_lines(go.ips.empty() ? order.ips : go.ips));
  exports.set("SKYPILOT_NUM_GPUS_PER_NODE", std::to_string(order.num_gpus));
  exports.set("SKYPILOT_INTERNAL_JOB_ID", std::to_string(start.key.job.value()));
  add_common(exports, start, order, places);
  if (!go.resume_from.empty()) {
    exports.set("QUAD_RESUME_FROM", go.resume_from);
    if (go.resume_step >= 0) {
      exports.set("QUAD_RESUME_STEP", std::to_string(go.resume_step));
    }
  }
  return exports.take();
}

}  // namespace quad::runner
