// server/clusters.h
//
// What the routes of jobs and of clusters share about clusters.

#pragma once

#include <string>

#include "base/json.h"
#include "control/clusters.h"
#include "control/core.h"
#include "server/app.h"

namespace quad::server {

/// {idle_minutes, down, wait_for}; `where` goes before the names of members in errors.
Result<control::Autostop> read_autostop(const json::object& object, const std::string& where);

/// What is to hold a stopped cluster's nodes again: as its holder was asked for.
Result<job::Request> holder_again(App& app, const job::Job& holder);

json::object cluster_view(const control::Cluster& cluster, const control::Snapshot& snapshot);

}  // namespace quad::server
