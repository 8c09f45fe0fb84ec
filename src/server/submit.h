// server/submit.h
//
// From a task as it was written (spec::Task) to a request that control accepts, and from that to
// the order that a rank's runner gets. What Quad understands but cannot honour on this engine is
// said here: an error where the job could not work, a warning where it can. Pure but for sealing;
// any thread.

#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "config/config.h"
#include "control/core.h"
#include "engine/kubernetes/views/pod_request.h"
#include "server/cluster_task.h"
#include "spec/parse.h"

namespace quad::server {

struct SubmitContext {
  std::string owner;
  WallTime now;              ///< of the submission
  std::string secret_key;    ///< for sealing
  std::string workdir_blob;  ///< of a local workdir; empty if none was uploaded
  std::map<std::string, std::string> mount_blobs;  ///< destination -> blob of a local file mount
  std::map<std::string, bool> mount_is_file;
  std::optional<ClusterTarget> cluster;  ///< that it is to run on
  bool uploads_follow = false;  ///< only looking: local files need not have been uploaded yet
  const control::Snapshot* snapshot = nullptr;  ///< for what nodes there are
  std::vector<std::string> clusters;            ///< the names of this server's Kubernetes engines
  /// What pods get in each of those; none: not known, so nothing is checked against it.
  const std::map<std::string, kubernetes::PodSettings>* pods = nullptr;
  bool has_local = false;                             ///< this machine is one of the engines
  config::Jobs jobs = config::default_config().jobs;  ///< what a task gets that asks for nothing
};

struct Prepared {
  std::vector<job::Request> requests;
  /// For a cluster: the job to hold its nodes, if it is to be made, and what the task says of its
  /// end.
  std::optional<job::Request> holder;
  std::optional<control::Autostop> autostop;
  std::vector<spec::Diagnostic> errors, warnings;
};

Prepared prepare(const spec::TaskSet& set, const SubmitContext& context);

/// A request's body with what is sealed in it in its place. kInvalid if that cannot be opened.
Result<json::object> open_body(std::string_view text, const std::string& owner,
                               const std::string& secret_key);

/// The `order` message (docs/runner-protocol.md) for one rank. kInvalid if the secrets cannot be
/// opened.
Result<json::object> make_order(const job::Job& job, std::string_view body, const RankKey& key,
                                const std::string& secret_key, const std::string& hot);
/// The `go` message.
json::object make_go(const job::Job& job, const RankKey& key);

}  // namespace quad::server
