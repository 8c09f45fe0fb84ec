// job/record.h
//
// Jobs, requests and events as JSON, for the store and for readers. from_* accept what to_* wrote,
// of this version or an older one; what they do not know they ignore.

#pragma once

#include "base/json.h"
#include "job/event.h"
#include "job/job.h"

namespace quad::job {

json::object to_json(const Request& request);
Result<Request> request_from_json(const json::object& object);

/// Without the request, which is stored once, apart.
json::object to_json(const Job& job);
Result<Job> job_from_json(const json::object& object, std::shared_ptr<const Request> request);

/// How a rank ended: also what a runner leaves behind in result.json.
json::object to_json(const RankEnd& end);
RankEnd rank_end_from_json(const json::object& object);

/// For readers: times as RFC 3339, absent members left out.
json::object to_json(const Event& event);

}  // namespace quad::job
