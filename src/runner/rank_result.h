// runner/rank_result.h
//
// How a rank ended, as the runner says it: in the message `exited`, in result.json and, in a pod,
// in the container's termination message (docs/runner-protocol.md). Pure. A library of its own, so
// that whoever reads a pod's end reads what the runner writes.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/json.h"

namespace quad::runner {

struct RankResult {
  std::string how = "exited";  ///< exited, signaled, never_ran
  std::int32_t code = 0;
  bool by_quad = false;
  bool out_of_memory = false;
  bool in_setup = false;
  std::string detail;
  std::uint64_t log_end = 0;  ///< bytes of output in all
  std::int64_t at_ms = 0;     ///< wall time
};

json::object to_json(const RankResult& result);
RankResult result_from(const json::object& object);

/// What Kubernetes keeps of a container's termination message; it cuts off what is more.
inline constexpr std::size_t kTerminationMessageBytes = 4096;

/// The text of to_json() in no more than that: a detail that is too long loses its end.
std::string termination_message(RankResult result);

}  // namespace quad::runner
