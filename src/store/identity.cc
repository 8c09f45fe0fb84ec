#include "store/identity.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"

namespace quad::store {

namespace {

constexpr std::string_view kLife = "records/life";
constexpr std::string_view kGeneration = "records/generation";
constexpr std::string_view kKeyPrefix = "records/key/";
constexpr std::string_view kPlacePrefix = "records/place/";

std::string_view to_string(TakenBack taken_back) {
  switch (taken_back) {
    case TakenBack::kNo:
      return "";
    case TakenBack::kBehind:
      return "behind";
    case TakenBack::kStrange:
      return "strange";
  }
  return "";
}

Status put(Connection& db, std::string_view key, std::string_view value) {
  QUAD_ASSIGN(
      Statement statement,
      Statement::prepare(
          db.get(), value.empty() ? "DELETE FROM settings WHERE key=?"
                                  : "INSERT OR REPLACE INTO settings (key, value) VALUES (?,?)"));
  statement.bind(key);
  if (!value.empty()) {
    statement.bind(value);
  }
  return statement.run();
}

Status add_gap(Connection& db, std::string_view prefix, std::int64_t from, std::int64_t to) {
  return to < from ? Status() : put(db, fmt::format("{}{}", prefix, from), std::to_string(to));
}

}  // namespace

Result<Identity> read_identity(const Connection& db) {
  Identity identity;
  QUAD_ASSIGN(Statement rows,
              Statement::prepare(db.get(),
                                 "SELECT key, value FROM settings WHERE key >= 'records/' AND key "
                                 "< 'records0'"));
  for (;;) {
    QUAD_ASSIGN(const bool row, rows.step());
    if (!row) {
      return identity;
    }
    const std::string_view key = rows.text(0);
    const std::string_view value = rows.text(1);
    if (key == kLife) {
      identity.life = value;
    } else if (key == kGeneration) {
      identity.generation = parse_number(value).value_or(0);
    } else if (key == kTakenBackSetting) {
      identity.taken_back =
          value == to_string(TakenBack::kStrange) ? TakenBack::kStrange : TakenBack::kBehind;
    } else if (key.starts_with(kKeyPrefix)) {
      identity.keys[std::string(key.substr(kKeyPrefix.size()))] = value;
    } else if (key.starts_with(kPlacePrefix)) {
      identity.places[std::string(key.substr(kPlacePrefix.size()))] = value;
    } else if (key.starts_with(kJobGapPrefix)) {
      identity.lost_job = std::max(identity.lost_job, parse_number(value).value_or(0));
    } else if (key.starts_with(kEventGapPrefix)) {
      identity.lost_revision = std::max(identity.lost_revision, parse_number(value).value_or(0));
    }
  }
}

Status write_identity(Connection& db, const Identity& identity) {
  QUAD_TRY(put(db, kLife, identity.life));
  QUAD_TRY(put(db, kGeneration, std::to_string(identity.generation)));
  QUAD_TRY(put(db, kTakenBackSetting, to_string(identity.taken_back)));
  for (const auto& [name, value] : identity.keys) {
    QUAD_TRY(put(db, fmt::format("{}{}", kKeyPrefix, name), value));
  }
  for (const auto& [name, path] : identity.places) {
    QUAD_TRY(put(db, fmt::format("{}{}", kPlacePrefix, name), path));
  }
  return {};
}

Status add_job_gap(Connection& db, std::int64_t from, std::int64_t to) {
  return add_gap(db, kJobGapPrefix, from, to);
}

Status add_event_gap(Connection& db, std::int64_t from, std::int64_t to) {
  return add_gap(db, kEventGapPrefix, from, to);
}

}  // namespace quad::store
