// control/cluster_changed.h
//
// A request about a cluster that was made from a snapshot which is no longer true: another request
// was faster. Nothing was done; whoever made it looks again and asks again. Pure, any thread.

#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace quad::control {

inline constexpr std::string_view kClusterChanged = "cluster";  ///< as `where`

inline Error cluster_changed(const std::string& name) {
  return error(ErrorCode::kUnavailable,
               "Cluster " + name + " was changed by another request just now; try again",
               std::string(kClusterChanged));
}

inline bool is_cluster_changed(const Error& failure) {
  return failure.code == ErrorCode::kUnavailable && failure.where == kClusterChanged;
}

}  // namespace quad::control
