// store/provenance.h
//
// Whether the records in a folder are those that were last written there. A database can be an
// older copy, another server's, emptied or gone, and would be served all the same: then numbers of
// jobs were given out again, and a new job took an old one's output and checkpoints for its own. So
// before it is used, the database is compared with all that stands around it: the mark of how far
// it got, the check values of the keys, whose folders logs and hot are, and the greatest job number
// in them.
//
// judge() is pure; the rest reads and writes small files and lists folders, and is for whoever
// opens the store, who holds its lock.

#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "store/identity.h"
#include "store/mark.h"
#include "store/store.h"

namespace quad::store {

/// A folder with one folder for each job, named after its number: logs, hot.
struct Place {
  std::string role;
  std::filesystem::path path;
  std::string name;  ///< its path, or only its own name in the records' folder, which may be moved
  std::string life;  ///< whose it is; empty if it does not say
  std::int64_t generation = 0;
  std::int64_t last_job = 0;  ///< the greatest number in it
};

/// What stands around the database.
struct Surroundings {
  bool has_database = false;  ///< a file that is not empty
  bool has_log = false;       ///< a write-ahead log that is not empty
  std::optional<Mark> mark;
  bool mark_damaged = false;
  std::vector<Place> places;
  std::int64_t last_runner = 0;  ///< the greatest number of a job with a rank's folder here
};

/// What the database itself says.
struct Contents {
  std::int64_t schema = 0;  ///< 0: it has no tables
  Identity identity;
  std::int64_t last_job = 0;
  std::int64_t last_revision = 0;
};

struct Judgement {
  /// What is missing or does not belong together, in words to be joined to a sentence; empty when
  /// all is well.
  std::vector<std::string> findings;
  std::vector<std::string> notes;  ///< to be told, and no reason to stop
  /// What they are from now on, once the findings are accepted.
  Identity identity;
  std::int64_t last_job = 0;       ///< no number at or below it is given out
  std::int64_t last_revision = 0;  ///< nor of an event
  std::vector<Place> strange;      ///< places of other records, whose folders are to be set aside
};

/// O(entries of the places).
Surroundings look_around(const std::filesystem::path& folder, const OpenOptions& options);

/// `fresh_life` is for records that are new.
Judgement judge(const Surroundings& around, const Contents& contents,
                const std::vector<KeyOnDisk>& keys, const std::string& fresh_life);

/// The error of a start that is refused.
Error refusal(const std::filesystem::path& folder, const std::vector<std::string>& findings);

/// Writes whose it is into the place, which is made if it is not there. No write if it says so
/// already.
Status mark_place(const Place& place, const Identity& identity);

/// Moves the jobs' folders in it to a folder of their own there.
Status set_aside(const Place& place);

/// The epoch of the last attempt of this job of which the places have anything.
Epoch last_epoch_in(const std::vector<std::filesystem::path>& places, JobId job);

}  // namespace quad::store
