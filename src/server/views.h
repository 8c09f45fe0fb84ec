// server/views.h
//
// What the API shows of the records: JSON made from a snapshot. Pure; any thread.

#pragma once

#include <vector>

#include "base/json.h"
#include "control/core.h"
#include "job/event.h"

namespace quad::server {

/// One line of `quad queue`.
json::object job_row(const job::Job& job, const std::vector<control::RankLive>& live);
/// Everything about a job: the row, and its attempts and ranks.
json::object job_detail(const job::Job& job, const std::vector<control::RankLive>& live);
json::object node_view(const pool::Node& node);
json::object why_view(const job::Job& job, const control::Snapshot& snapshot);
/// The checkpoints that a job wrote, oldest first, from its events of the kinds `checkpoint.*`. One
/// that was deleted or written over since has "gone": true. O(n log n).
json::array checkpoints_view(const std::vector<job::Event>& events);
/// The story of a job in sentences, one for each event worth telling, oldest first.
json::object story_view(const job::Job& job, const std::vector<job::Event>& events);
/// "1x[H100:8]" as SkyPilot writes it.
std::string resources_text(const job::Job& job);

}  // namespace quad::server
