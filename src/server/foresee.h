// server/foresee.h
//
// What would happen to a submission if it came now: the planner itself, asked on a copy of the pool
// with everything that waits. Pure; any thread; costs as much as one pass of the planner.

#pragma once

#include <optional>
#include <vector>

#include "control/core.h"
#include "plan/scheduler.h"

namespace quad::server {

struct Foresight {
  std::vector<NodeId> nodes;            ///< one for each rank, if it would start at once
  std::vector<pool::Holding> holdings;  ///< likewise
  std::int32_t shape = 0;               ///< likewise: which of the request's shapes
  std::optional<plan::Why> why;         ///< else, what it would wait for
};

/// For each of the requests, submitted in this order.
std::vector<Foresight> foresee(const control::Snapshot& snapshot,
                               const std::vector<job::Request>& requests);

/// The job as it would be once it has started so: one attempt, with these places.
job::Job job_started(const job::Request& request, const Foresight& foresight);

json::object to_json(const Foresight& foresight);
/// The members that `why` answers have: code, message, position, ahead, impossible, funnel.
void put_why(json::object& view, const plan::Why& why);

}  // namespace quad::server
