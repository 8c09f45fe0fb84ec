// runner/rank_options.h
//
// With what a rank's first process is started: its marks, limits, environment and scripts, put
// together from what the engine (start) and the server (order) say. Reads the runner's own
// environment, and makes FOLDER/tmp where the image has no /tmp to write to.

#pragma once

#include <filesystem>
#include <string_view>

#include "runner/cgroup.h"
#include "runner/environment.h"
#include "runner/order.h"
#include "runner/process.h"
#include "runner/remote_session.h"
#include "runner/start.h"

namespace quad::runner {

std::filesystem::path setup_script_of(const Places& places);
std::filesystem::path run_script_of(const Places& places);

/// `groups` hold its limits.
RankOptions rank_options(const Start& start, const Order& order, const Places& places,
                         const ControlGroups& groups);

/// What the process of a session is told: it gets what the rank's script has. `go` is null before
/// the barrier: then it is the setup's.
RemoteSessionOrder remote_session_order(const Start& start, const Order& order, const Go* go,
                                        const Places& places, std::string_view id,
                                        std::string_view kind);

}  // namespace quad::runner
