// checkpoint/take_over.h
//
// The record that an attempt leaves in its own directory (.quad/resumed.json) of what it resumed
// from, or that it began afresh. It makes bringing forward repeatable after a crash, and it tells
// the attempts after it where the ones before it ended: what an old rank writes later than that
// does not count. Blocks for one small file; any thread.

#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/ids.h"
#include "base/result.h"
#include "checkpoint/file_view.h"

namespace quad::checkpoint {

/// One state of a checkpoint, to tell it from a later one under the same name.
struct StateOf {
  std::uint64_t size = 0;         ///< bytes of all its files
  std::int64_t newest_nanos = 0;  ///< when the last of them was written; a copy keeps it
  bool operator==(const StateOf&) const = default;
};

struct TakeOver {
  Epoch epoch;                       ///< the attempt that took over
  std::int64_t at_nanos = 0;         ///< when, on the clock of the file system itself
  std::optional<std::string> from;   ///< what it resumed from; nullopt: it began afresh
  std::optional<std::int64_t> step;  ///< of what it resumed from
  std::optional<StateOf> state;      ///< of what it resumed from; earlier versions wrote none
  std::string path;                  ///< QUAD_RESUME_FROM as it was given
  std::string how;                   ///< to_string(How), see bring_forward.h
};

/// nullopt if there is none, or none that can be read: then nothing is assumed.
std::optional<TakeOver> read_take_over(const FileView& view, const std::filesystem::path& root);

/// Durable when it returns.
Status write_take_over(const std::filesystem::path& root, const TakeOver& takeover);

}  // namespace quad::checkpoint
