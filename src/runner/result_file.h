// runner/result_file.h
//
// result.json: how a rank ended, in the rank's folder, written before it is reported: whatever
// becomes of the runner or the server, it is found there. It is the message `exited`
// (docs/runner-protocol.md) without type and seq, and `at_ms`. Only a machine that goes down can
// lose it, in the five seconds that a connected server has to record it before it is synced.

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

/// Whole or not at all; one small file in the page cache.
Status write_result(const std::filesystem::path& folder, const RankResult& result);
/// Waits until the disk has it under its name, which takes longer than all else that a short job
/// does.
Status sync_result(const std::filesystem::path& folder);
/// nullopt if there is none.
std::optional<RankResult> read_result(const std::filesystem::path& folder);

}  // namespace quad::runner
