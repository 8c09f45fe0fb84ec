// cli/clusters.h
//
// What the verbs for jobs need to know of clusters, whose names stand where jobs' numbers may.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/commands.h"

namespace quad::cli {

/// The words where jobs are named: numbers, or the name of a cluster and then numbers.
struct JobWords {
  std::string cluster;  ///< empty: none
  std::vector<std::int64_t> jobs;
};
/// kInvalid for a word that is neither.
Result<JobWords> read_job_words(const std::vector<std::string>& words);
/// That it is there: kNotFound otherwise.
Result<json::object> cluster_named(Client& client, const std::string& name);
/// The job of this number, or the one that holds the nodes of the cluster of this name; kInvalid or
/// kNotFound otherwise.
Result<std::int64_t> job_named(Client& client, const std::string& word);
/// kInvalid unless all of the jobs are on the cluster.
Status check_jobs_of(Client& client, const JobWords& words);

/// A row each, if there are any.
void print_clusters(const json::array& clusters);
/// `quad status NAME`: the cluster in full.
int show_cluster(Program& program, const std::string& name);

}  // namespace quad::cli
