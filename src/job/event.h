// job/event.h
//
// One thing that happened: the timeline, the audit trail, the failure story and the stream that
// pages follow. Written in the same transaction as the change of state that it tells of.

#pragma once

#include <string>

#include "base/ids.h"
#include "base/json.h"
#include "base/time.h"

namespace quad::job {

struct Event {
  Revision revision;  ///< given by the store, in commit order
  WallTime at;
  JobId job;            ///< 0: not about a job
  Epoch epoch;          ///< 0: not about an attempt
  Rank rank{-1};        ///< -1: not about one rank
  std::string node;     ///< empty: not about a node
  std::string kind;     ///< dotted, stable: "job.submitted", "rank.exited", "node.lost", …
  std::string actor;    ///< who or what caused it: a user's name, "scheduler", "engine", "runner"
  std::string message;  ///< one sentence for people
  json::object data;    ///< the same for programs
};

}  // namespace quad::job
