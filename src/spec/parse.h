// spec/parse.h
//
// Text → tasks, and tasks → the JSON that SkyPilot would print. Everything that can be known
// without a cluster and without looking for files is checked here, once, whoever the text comes
// from. Pure, any thread; well under a second for any input, some hundred microseconds for a usual
// file.

#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "spec/diagnostic.h"
#include "spec/task.h"

namespace quad::spec {

/// What the command line says over the file.
struct Overrides {
  std::vector<NamedValue> envs, secrets;  ///< a name that the file lacks is added
  std::optional<std::string> name, workdir, cpus, memory, gpus, infra, image_id, disk_size;
  std::optional<std::string> git_url, git_ref;  ///< a git workdir; the ref alone changes the file's
  std::optional<std::string> instance_type, disk_tier, network_tier, local_disk;
  std::vector<std::string> ports;
  std::optional<int> num_nodes, priority;
  std::optional<bool> use_spot;
  /// "kubernetes.provision_timeout" → YAML text of its value; "" → YAML text of a whole config.
  std::vector<NamedValue> config;
};

struct TaskSet {
  enum class Execution { kSerial, kParallel };

  std::optional<std::string> dag_name;  ///< of the file: its header's, or its only task's
  Execution execution = Execution::kSerial;
  std::vector<std::string> primary_tasks;      ///< of a job group; empty: all are
  std::vector<NamedValue> termination_delays;  ///< of a job group: task or "default" → "30s"
  std::optional<bool> inter_connection;
  Marks header;             ///< of the keys of a job group's header
  std::vector<Task> tasks;  ///< empty if there are errors
  std::vector<Diagnostic> errors, warnings;

  [[nodiscard]] bool ok() const { return errors.empty(); }
};

/// One task, a pipeline, or a job group. Never fails otherwise than by `errors`.
TaskSet parse(std::string_view yaml, const Overrides& overrides);

/// The task that only runs `command`: quad launch 'python train.py'.
TaskSet from_command(std::string_view command, const Overrides& overrides);

/// What a launch refuses beyond what validation does: names, mount paths, volumes that could not
/// work. Whether local files exist is for the caller to look at.
std::vector<Diagnostic> launch_errors(const Task& task);

enum class Redact { kNo, kYes };

/// Exactly SkyPilot's Task.to_yaml_config(), and "quad" if the file has it. With kYes, values of
/// secrets and the registry password become "<redacted>".
json::object to_json(const Task& task, Redact redact = Redact::kNo);

/// [{message, key, line, column, hint}]
json::array to_json(const std::vector<Diagnostic>& diagnostics);

/// {path, ok, errors: [{message, key, line, column, hint}], warnings, dag_name, tasks}.
json::object to_json(const TaskSet& set, std::string_view path, Redact redact = Redact::kNo);

/// A dotenv file: `export` allowed, quotes, escapes, comments, ${NAME} and ${NAME:-default} from
/// earlier lines or `environment`. kInvalid with the line for anything else.
Result<std::vector<NamedValue>> parse_env_file(
    std::string_view text,
    const std::function<std::optional<std::string>(std::string_view)>& environment = {});

}  // namespace quad::spec
