// runner/result_file.h
//
// result.json: how a rank ended, in the rank's folder, written before it is reported: whatever
// becomes of the runner or the server, it is found there. It is the message `exited`
// (docs/runner-protocol.md) without type and seq, and `at_ms`. Only a machine that goes down can
// lose it, in the five seconds that a connected server has to record it before it is synced. In a
// pod the same is left as the container's termination message, which outlives the rank's folder.

#pragma once

#include <filesystem>
#include <optional>

#include "base/result.h"
#include "runner/rank_result.h"

namespace quad::runner {

/// Whole or not at all; one small file in the page cache.
Status write_result(const std::filesystem::path& folder, const RankResult& result);
/// Waits until the disk has it under its name, which takes longer than all else that a short job
/// does.
Status sync_result(const std::filesystem::path& folder);
/// Into `file`, which is there already, as the kubelet makes it; nothing is made. What user code
/// may have written into it before is replaced.
Status write_termination_message(const std::filesystem::path& file, const RankResult& result);
/// nullopt if there is none.
std::optional<RankResult> read_result(const std::filesystem::path& folder);

}  // namespace quad::runner
