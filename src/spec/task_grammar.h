// spec/task_grammar.h
//
// What may stand in a task file: SkyPilot's keys as of 0.14.1 and Quad's own `quad:` block, as
// rules of spec/grammar.h. Each is built on first use and never changes. Any thread.

#pragma once

#include "spec/grammar.h"

namespace quad::spec {

const Rule& task_rule();
const Rule& resources_rule();
const Rule& storage_rule();
const Rule& service_rule();
/// The block `config` of a task; `hooks` included.
const Rule& config_rule();
const Rule& volume_mount_rule();
const Rule& quad_rule();

/// "A", "my_name1": a name that a shell variable can have.
bool is_env_name(std::string_view name);
/// The clouds that `infra` and `cloud` may name.
const std::vector<std::string_view>& cloud_names();

}  // namespace quad::spec
