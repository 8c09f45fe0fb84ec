// runner/result_file.h
//
// result.json: how a rank ended, in the rank's folder, durable before it is reported. It is the message `exited`
// (docs/runner-protocol.md) without type and seq, and `at_ms`. Blocks for a synced write of one small file.

#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/json.h"
#include "base/result.h"

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

Status write_result(const std::filesystem::path& folder, const RankResult& result);
/// nullopt if there is none.
std::optional<RankResult> read_result(const std::filesystem::path& folder);

}  // namespace quad::runner
