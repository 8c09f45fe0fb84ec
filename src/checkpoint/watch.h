// checkpoint/watch.h
//
// Watches the checkpoint directory of a running attempt: says once for each checkpoint that it has
// become complete and once that it is gone, and notices when a script overwrites its only one in
// place. Owned by one thread
// (the runner's own, not the one that feeds a rank's log), which calls `poll` every few seconds. A
// poll costs one stat for each name; contents are read again only of what has changed since.
// Nothing is written.
//
// Always holds: a checkpoint that changed between the look before and after its check is not
// reported in this poll; the same state of one is never reported twice; what vanishes is no error.

#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "checkpoint/find.h"

namespace quad::checkpoint {

struct WatchOptions {
  Millis settle = std::chrono::seconds(60);
  std::string marker;
  Limits limits;
};

/// A checkpoint that has become complete since the last poll.
struct NewCheckpoint {
  Found found;
  Verdict verdict;
  Millis took{
      0};  ///< from its first sight, or its first file, to its last write; 0 if it came by a rename
};

/// A script wrote over a checkpoint that had been complete.
struct Overwritten {
  Found found;
  bool only = false;       ///< there was no other complete one: a crash just then loses everything
  bool truncated = false;  ///< it is incomplete at this moment
};

struct WatchReport {
  std::vector<NewCheckpoint> complete;  ///< oldest first
  std::vector<Overwritten> overwritten;
  std::vector<std::filesystem::path> gone;  ///< had been told as complete, and is not there now
};

class CheckpointWatcher {
 public:
  CheckpointWatcher(const FileView& view, Root root, WatchOptions options)
      : view_(view), root_(std::move(root)), options_(std::move(options)) {}

  /// Takes what is there as known: call it after bringing forward and before the task starts.
  Status baseline(Now now);
  /// What has happened since the last call. A root that is not there is one with nothing in it.
  Result<WatchReport> poll(Now now);

  /// Every checkpoint as last seen, newest state, for `to_delete` and for people.
  [[nodiscard]] std::vector<NewCheckpoint> known() const;

 private:
  // Everything about a checkpoint's files that changes when one of them does.
  struct Fingerprint {
    std::uint64_t size = 0;
    std::uint64_t files = 0;
    std::uint64_t mix = 0;
    std::uint64_t inode = 0;
    bool operator==(const Fingerprint&) const = default;
  };
  struct Known {
    Found found;
    Fingerprint print;
    FileInfo info;
    Verdict verdict;
    bool checked = false;
    bool reported = false;       // this state has been told as complete
    bool ever_reported = false;  // one of its states has been
    bool overwriting = false;    // it was complete and is being written over; told once
    MonoTime first_seen;
    MonoTime changed;
    MonoTime checked_at;
    Millis took{0};
    std::uint64_t round = 0;
  };

  std::optional<Fingerprint> print_of(const Found& found) const;
  void look(Found found, Now now, WatchReport& report);
  void forget_what_is_gone(WatchReport& report);
  void check(Known& known, Now now, WatchReport& report);
  [[nodiscard]] std::optional<Verdict> previous_of(const Known& known) const;
  [[nodiscard]] bool has_other_complete(const Known& known) const;

  const FileView& view_;
  Root root_;
  WatchOptions options_;
  std::map<std::string, Known> known_;  // by path
  std::uint64_t round_ = 0;
  bool first_poll_ = true;
};

}  // namespace quad::checkpoint
