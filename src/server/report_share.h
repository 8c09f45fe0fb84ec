// server/report_share.h
//
// What the ranks of one job may have put on record by reports of which there may be any number:
// notes, and checkpoints that come and go. Counts for as long as this server knows the job to be
// under way, over all of its attempts. Io thread only; a look-up for each report.

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

#include "base/ids.h"

namespace quad::server {

class ReportShare {
 public:
  enum class Kind { kNote, kCheckpoint };
  enum class Answer {
    kRecord,
    kTellOnce,  ///< the first that is too much
    kDrop,
  };

  /// Some months of a checkpoint each minute.
  static constexpr std::int64_t kMostCheckpointBytes = 64LL << 20U;
  /// Of notes.
  static constexpr std::int64_t most_note_bytes(std::int32_t ranks) {
    return (1LL << 20U) + (16LL << 10U) * ranks;
  }

  /// May a report with so many bytes of text be recorded?
  Answer take(JobId job, std::int32_t ranks, Kind kind, std::size_t bytes) {
    constexpr std::int64_t kEvent = 200;  // without its text
    Used& used = used_[job];
    std::int64_t& count = kind == Kind::kNote ? used.notes : used.checkpoints;
    const std::int64_t most = kind == Kind::kNote ? most_note_bytes(ranks) : kMostCheckpointBytes;
    if (count > most) {
      return Answer::kDrop;
    }
    count += kEvent + static_cast<std::int64_t>(bytes);
    return count > most ? Answer::kTellOnce : Answer::kRecord;
  }

  /// The job is over.
  void forget(JobId job) { used_.erase(job); }
  [[nodiscard]] std::size_t jobs() const { return used_.size(); }

 private:
  struct Used {
    std::int64_t notes = 0;
    std::int64_t checkpoints = 0;
  };
  std::map<JobId, Used> used_;
};

}  // namespace quad::server
