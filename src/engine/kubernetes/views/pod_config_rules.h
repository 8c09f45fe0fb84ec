// engine/kubernetes/views/pod_config_rules.h
//
// All that a task may say of its pod: one table of key paths, each with how its value is looked at.
// What is not in it is refused. The administrator adds key paths to it
// (PodSettings::permissions). docs/kubernetes.md has the same table, printed from this one. Pure;
// O(size of the config × rows of the table).

#pragma once

#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"
#include "engine/kubernetes/views/pod_request.h"

namespace quad::kubernetes {

/// kDenied, or kInvalid for what no pod could have, with a sentence that names the key below
/// `path`, if a task's `config` says what tasks may not say here. `fixed_user`: the rank runs as
/// its owner's uid. What Quad itself rests on is for check_pod_config() to look at.
Status check_task_config(const json::object& config, const PodSettings& settings, bool fixed_user,
                         const std::string& path);

/// The table as docs/kubernetes.md has it.
std::string pod_config_table();

}  // namespace quad::kubernetes
