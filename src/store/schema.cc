#include "store/schema.h"

#include <fmt/format.h>

#include <array>

namespace quad::store {

namespace {

// The partial indexes are used only by queries that repeat their condition.
constexpr std::array<const char*, 1> kSteps = {
    R"(CREATE TABLE jobs (id INTEGER PRIMARY KEY, status TEXT NOT NULL, owner TEXT NOT NULL, name TEXT NOT NULL,
                          submitted_at INTEGER NOT NULL, record TEXT NOT NULL, request TEXT NOT NULL);
       CREATE TABLE bodies (job INTEGER PRIMARY KEY, body TEXT NOT NULL);
       CREATE TABLE events (revision INTEGER PRIMARY KEY, at INTEGER NOT NULL, job INTEGER NOT NULL,
                            epoch INTEGER NOT NULL, rank INTEGER NOT NULL, node TEXT NOT NULL, kind TEXT NOT NULL,
                            actor TEXT NOT NULL, message TEXT NOT NULL, data TEXT NOT NULL);
       CREATE INDEX events_by_job ON events (job, revision) WHERE job > 0;
       CREATE INDEX events_by_node ON events (node, revision) WHERE node <> '';
       CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
       CREATE TABLE client_keys (owner TEXT NOT NULL, key TEXT NOT NULL, job INTEGER NOT NULL,
                                 PRIMARY KEY (owner, key)) WITHOUT ROWID;)"};

}  // namespace

std::span<const char* const> schema_steps() {
  return kSteps;
}

Status migrate(Connection& db, const std::filesystem::path& path,
               std::span<const char* const> steps) {
  QUAD_ASSIGN(const std::int64_t version, db.integer("PRAGMA user_version"));
  if (version < 0 || version > static_cast<std::int64_t>(steps.size())) {
    return error(
        ErrorCode::kUnsupported,
        fmt::format(
            "{} was written by a newer Quad (schema {}, this one knows {}); use that version, or "
            "restore a backup of this one",
            path.string(), version, steps.size()));
  }
  for (auto next = static_cast<std::size_t>(version); next < steps.size(); ++next) {
    const Status step = db.run(
        fmt::format("BEGIN IMMEDIATE; {}; PRAGMA user_version={}; COMMIT;", steps[next], next + 1));
    if (!step.ok()) {
      (void)db.run("ROLLBACK");
      return error(step.error().code, fmt::format("Cannot bring {} to schema {}: {}", path.string(),
                                                  next + 1, step.error().message));
    }
  }
  return {};
}

}  // namespace quad::store
