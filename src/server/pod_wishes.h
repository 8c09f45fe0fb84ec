// server/pod_wishes.h
//
// What a task asks of the containers that its ranks run in, between its submission and the engine
// that makes pods: kept in the request's body as JSON, one for each shape of the job, and read
// again for each rank that is started. Pure; any thread.

#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/json.h"
#include "engine/engine.h"
#include "engine/kubernetes/views/pod_request.h"
#include "spec/task.h"

namespace quad::server {

/// What SkyPilot asks for a pod: as many G, of 10^9 bytes, as the task has GB, which are 2^30
/// elsewhere.
std::int64_t pod_bytes(std::int64_t bytes);

/// Of one alternative of the task's resources. May hold the password of a registry.
json::object pod_wishes(const spec::Task& task, const spec::Resources& resources);

/// The devices by name that the task's own pod_config asks for, for the planner to count.
std::map<std::string, std::int64_t> devices_of(const spec::Task& task);

/// The pod of rank 0 as it would be asked for, for checks before it is submitted.
kubernetes::PodRequest pod_request(const job::Request& request, const job::Shape& shape,
                                   const json::object& wishes);

/// The rank's pod, from what was kept of the task in the job's body. kInternal if the body does
/// not hold it; kDenied if what is sealed in it cannot be opened.
Result<kubernetes::PodRequest> pod_request(const engine::StartOrder& order,
                                           const std::string& body_text,
                                           const std::string& secret_key);

}  // namespace quad::server
