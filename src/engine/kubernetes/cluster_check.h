// engine/kubernetes/cluster_check.h
//
// Looks at a cluster for `quad check`, with the rights of whoever asks: some thirty short requests,
// nothing of which is kept there (writes are dry runs). Blocks, for a cluster that does not answer
// at most as long as `options` say for one try. Any thread.

#pragma once

#include <string>
#include <vector>

#include "engine/check.h"
#include "engine/kubernetes/kubernetes.h"

namespace quad::kubernetes {

/// What of the configuration is no PodSettings.
struct CheckRequest {
  bool in_cluster = false;
  bool out_of_service_taint = false;
  std::vector<std::string> storage_classes;  ///< that the configuration names
  std::string default_storage_class;
};

engine::CheckReport check_cluster(const KubernetesOptions& options, const CheckRequest& request,
                                  const Clock& clock);

}  // namespace quad::kubernetes
