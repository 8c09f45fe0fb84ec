// checkpoint/select.h
//
// Which checkpoint a new attempt resumes from: the newest that is valid, over the directories of
// all attempts before it. Blocks for a bounded scan of each root and the checks of what it holds,
// newest first is not assumed; any thread.
//
// Order ("newer"): the step; then the attempt; a checkpoint without any step is older than one that
// has one. Without steps: the training epoch, then the attempt, and only then the time of writing.
// Times do not otherwise count, since a restore from elsewhere changes them.
//
// Always holds: what is chosen is kComplete. Roots of a later attempt than `current` are ignored.
// When attempt k took over at step s (its directory says so, see take_over.h), what an earlier
// attempt wrote after that and beyond s is the work of an old rank that lived on, and does not
// count.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/find.h"

namespace quad::checkpoint {

struct Candidate {
  Found found;
  Root root;
  Verdict verdict;
  bool outdated = false;  ///< written by an attempt after a later one had taken over; never chosen
};

/// Whether `a` is newer than `b`. A strict total order over candidates of different paths.
bool newer(const Candidate& a, const Candidate& b);

struct SelectOptions {
  WallTime now;
  Epoch current;  ///< roots of later attempts are ignored
  Millis settle = std::chrono::seconds(60);
  std::string marker;
  Limits limits;
};

struct Selection {
  std::optional<Candidate> chosen;
  std::vector<Candidate> passed_over;  ///< newer than the chosen one, and why not, newest first
  std::vector<Candidate> all;  ///< everything found, newest first: what `quad checkpoints` shows
  /// When waiting may give a newer one: the earliest time at which a passed-over one settles.
  std::optional<WallTime> settles_at;
  std::vector<std::string> notes;  ///< what the search could not see, as sentences
};

Selection newest_valid(const FileView& view, const std::vector<Root>& roots,
                       const SelectOptions& options);

/// The attempts' own directories, <job>/e1, e2, … up to `current`, oldest first.
std::vector<Root> attempt_roots(const FileView& view, const std::filesystem::path& job_folder,
                                Epoch current);

/// Validates candidates of one root in order of their steps, so that each has the one before it as
/// its pattern.
std::vector<Candidate> validate_all(const FileView& view, const Root& root,
                                    std::vector<Found> found, const ValidateOptions& options);

}  // namespace quad::checkpoint
