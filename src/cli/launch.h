// cli/launch.h
//
// Launching, for the verbs that do: a task file or a command with what the flags say over it.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/commands.h"

namespace quad::cli {

struct LaunchOptions {
  std::vector<std::string> entrypoint;
  std::string name, gpus, cpus, memory, workdir, git_url, git_ref, image_id, disk_size;
  std::string infra, cloud, region, zone, instance_type, disk_tier, network_tier, local_disk;
  int num_nodes = 0;
  std::optional<int> priority;
  std::optional<bool> use_spot;
  std::vector<std::string> ports, configs;
  bool detach = false;
  bool dryrun = false;
  bool ignored = false;
  // Of a cluster.
  std::string cluster;  ///< that it runs on; empty: on none
  bool exec = false;    ///< on one that is there, without mounts and setup
  std::string idle_minutes, wait_for;
  bool down = false;
  std::vector<std::string> envs, secrets, env_files, secret_files;
  std::string client_key;
};

/// Brings what the task needs, submits it, and shows its output; the exit code.
int launch(Program& program, const LaunchOptions& options);

/// {idle_minutes, down, wait_for} of the flags: idle as "10", "10m", "2h", "1d"; empty is 0.
Result<json::value> autostop_body(const std::string& idle, bool down, const std::string& wait_for);

/// The flags that say more of the task: resources, workdir, environment, …
void add_task_options(CLI::App& verb, LaunchOptions& options);

}  // namespace quad::cli
