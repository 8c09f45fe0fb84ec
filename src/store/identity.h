// store/identity.h
//
// Whose records these are, as the database itself says it: the id of their life, made once, and a
// generation that is renewed whenever records are taken back. They stand among the settings, under
// "records/", with what belongs to them: a check value of each key, the folders that were marked as
// theirs, and the numbers that were given out in records that are lost.
//
// For whoever opens the store; a few rows, read and written once at each start.

#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "store/connection.h"

namespace quad::store {

/// What the next load() is to be told, once: records were taken back since the last one.
enum class TakenBack {
  kNo,
  kBehind,   ///< what exists may be of jobs and attempts that the records have lost
  kStrange,  ///< what exists is of other records, whose jobs had the same numbers
};

struct Identity {
  std::string life;  ///< empty in a database of a version that had none
  std::int64_t generation = 0;
  std::map<std::string, std::string> keys;    ///< check value of each key, by its file's name
  std::map<std::string, std::string> places;  ///< folders that bear this life, by their role
  /// The greatest number in a gap left by lost records; none at or below it is given out again.
  std::int64_t lost_job = 0;
  std::int64_t lost_revision = 0;
  TakenBack taken_back = TakenBack::kNo;
};

/// Of a database whose schema is at least 1.
Result<Identity> read_identity(const Connection& db);

/// Life, generation, keys, places and whether they were taken back; for a transaction.
Status write_identity(Connection& db, const Identity& identity);

/// The numbers from `from` to `to` were given out in records that are lost. Nothing if to < from.
Status add_job_gap(Connection& db, std::int64_t from, std::int64_t to);
Status add_event_gap(Connection& db, std::int64_t from, std::int64_t to);

/// Their keys among the settings.
inline constexpr std::string_view kIdentityPrefix = "records/";
inline constexpr std::string_view kJobGapPrefix = "records/gap/";
inline constexpr std::string_view kEventGapPrefix = "records/event_gap/";
/// TakenBack; removed once what it tells has been acted on.
inline constexpr std::string_view kTakenBackSetting = "records/taken_back";

}  // namespace quad::store
