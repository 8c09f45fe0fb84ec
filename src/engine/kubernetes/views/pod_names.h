// engine/kubernetes/views/pod_names.h
//
// What Quad's objects in a cluster are called, and the labels that it finds them by. Names are made
// from (server, job, epoch, rank), so an order given twice is one object; they are valid DNS
// labels. Pure, any thread.

#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/ids.h"
#include "base/json.h"

namespace quad::kubernetes {

inline constexpr std::string_view kLabelServer = "quad.io/server";
inline constexpr std::string_view kLabelJob = "quad.io/job";
inline constexpr std::string_view kLabelEpoch = "quad.io/epoch";
inline constexpr std::string_view kLabelRank = "quad.io/rank";
inline constexpr std::string_view kLabelName =
    "quad.io/name";  ///< the job's, as far as a label may
inline constexpr std::string_view kLabelOwner = "quad.io/owner";  ///< likewise
inline constexpr std::string_view kLabelNode = "quad.io/node";  ///< that it is pinned to; likewise
/// What begins so belongs to Quad: labels, annotations, taints, …
inline constexpr std::string_view kOwnPrefix = "quad.io/";
/// Objects of attempts begin so; nothing else of the namespace should.
inline constexpr std::string_view kNamePrefix = "quad-";

/// "quad-1a2b3c4d-j17-e2": the attempt's Secret, and the headless Service of its ranks. `server` is
/// the short id of the server, of letters and digits.
std::string attempt_name(std::string_view server, JobId job, Epoch epoch);
/// "quad-1a2b3c4d-j17-e2-r0".
std::string pod_name(std::string_view server, const RankKey& key);
/// "quad-1a2b3c4d-j17": what outlives an attempt, such as the Service of the job's ports.
std::string job_object_name(std::string_view server, JobId job);
/// "train-17-r0": what the rank calls itself, and is found by within the attempt's subdomain.
std::string rank_hostname(std::string_view job_name, const RankKey& key);

/// A user's own folder on storage that users share, as one step of a path: different for any two
/// users, also where case does not count, and none that is hidden or climbs ("..", ".quad").
/// Small letters, digits and -_@ are themselves, and so are dots but for the first character; all
/// else is %XX.
std::string folder_of_user(std::string_view user);

/// `text` as a label's value: at most 63 letters, digits, and -_. between them.
std::string label_value(std::string_view text);
/// What is wrong with a label that a user asks for, as the end of a sentence; empty if nothing is.
std::string label_fault(std::string_view key, std::string_view value);

/// The labels by which a pod is known as a rank of this server.
json::object identity_labels(std::string_view server, const RankKey& key);
/// The reverse: the rank that an object's labels name; nullopt if it is not this server's.
std::optional<RankKey> rank_of_labels(const json::object& labels, std::string_view server);
/// A selector of all objects of one server, for lists and watches.
std::string server_selector(std::string_view server);

}  // namespace quad::kubernetes
