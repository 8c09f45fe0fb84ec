// server/check.h
//
// `quad check`: what each engine of a configuration has and lacks for jobs. The server answers it
// with its own rights; the command line also asks by itself, before there is a server.

#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "base/time.h"
#include "config/config.h"
#include "engine/check.h"
#include "server/engines.h"

namespace quad::server {

/// A report for each engine, one after the other; blocks, some seconds for a cluster that does not
/// answer. Any thread.
std::vector<engine::CheckReport> check_engines(const config::Config& config,
                                               const EngineContext& context, const Clock& clock);

/// As GET /v1/check answers it (api/openapi.yaml).
json::object check_view(const std::vector<engine::CheckReport>& reports);

}  // namespace quad::server
