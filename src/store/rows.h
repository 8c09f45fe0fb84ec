// store/rows.h
//
// How a row of the database becomes a record. Pure but for the statement that is read.

#pragma once

#include <string_view>

#include "job/event.h"
#include "job/job.h"
#include "store/connection.h"

namespace quad::store {

/// The columns that event_from_row() reads, in its order.
inline constexpr std::string_view kEventColumns =
    "revision, at, job, epoch, rank, node, kind, actor, message, data";

/// A job from its two texts; its request has no body. The error names the job.
Result<job::Job> job_from_texts(JobId id, std::string_view record, std::string_view request);

/// The event in the statement's current row.
Result<job::Event> event_from_row(const Statement& row);

}  // namespace quad::store
