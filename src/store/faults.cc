#include "store/faults.h"

#include <fmt/format.h>

#include <map>

#include "store/identity.h"
#include "store/rows.h"

namespace quad::store {

namespace {

using Faults = std::vector<std::string>;

Status check_file(Connection& db, Faults& faults) {
  QUAD_ASSIGN(Statement lines, Statement::prepare(db.get(), "PRAGMA integrity_check"));
  for (;;) {
    QUAD_ASSIGN(const bool row, lines.step());
    if (!row) {
      return {};
    }
    if (lines.text(0) != "ok") {
      faults.push_back(fmt::format("The database file is damaged: {}", lines.text(0)));
    }
  }
}

void check_row(const Statement& row, Faults& faults) {
  const JobId id(row.integer(0));
  const Result<job::Job> job = job_from_texts(id, row.text(5), row.text(6));
  if (!job.ok()) {
    faults.push_back(job.error().message);
    return;
  }
  if (const std::string fault = job::check(*job); !fault.empty()) {
    faults.push_back(fmt::format("Job {} is not sound: {}", id.value(), fault));
  }
  const auto compare = [&](std::string_view what, std::string_view recorded,
                           std::string_view column) {
    if (recorded != column) {
      faults.push_back(fmt::format("Job {} has the {} \"{}\" in its record and \"{}\" in its row",
                                   id.value(), what, recorded, column));
    }
  };
  compare("status", to_string(job->status), row.text(1));
  compare("owner", job->request->owner, row.text(2));
  compare("name", job->request->name, row.text(3));
  compare("time of submission", std::to_string(job->submitted_at.millis), row.text(4));
}

/// The numbers that were lost and accepted as such, from the first to the last of each gap.
Result<std::map<std::int64_t, std::int64_t>> job_gaps(const Connection& db) {
  std::map<std::int64_t, std::int64_t> gaps;
  QUAD_ASSIGN(
      Statement rows,
      Statement::prepare(db.get(), fmt::format("SELECT substr(key, {}), value FROM settings WHERE "
                                               "key LIKE '{}%'",
                                               kJobGapPrefix.size() + 1, kJobGapPrefix)));
  for (;;) {
    QUAD_ASSIGN(const bool row, rows.step());
    if (!row) {
      return gaps;
    }
    gaps.emplace(rows.integer(0), rows.integer(1));
  }
}

/// Each job is looked into only if they are to be `checked`, and not just counted.
Status check_jobs(const Connection& db, bool checked, Faults& faults) {
  QUAD_ASSIGN(const auto gaps, job_gaps(db));
  QUAD_ASSIGN(Statement jobs,
              Statement::prepare(db.get(),
                                 checked ? "SELECT id, status, owner, name, submitted_at, record, "
                                           "request FROM jobs ORDER BY id"
                                         : "SELECT id FROM jobs ORDER BY id"));
  std::int64_t expected = 1;
  for (;;) {
    QUAD_ASSIGN(const bool row, jobs.step());
    if (!row) {
      return {};
    }
    const std::int64_t id = jobs.integer(0);
    for (auto gap = gaps.find(expected); gap != gaps.end() && gap->second < id;
         gap = gaps.find(expected)) {
      expected = gap->second + 1;
    }
    if (id == expected + 1) {
      faults.push_back(fmt::format("Job {} is missing", expected));
    } else if (id != expected) {
      faults.push_back(fmt::format("The jobs {} to {} are missing", expected, id - 1));
    }
    expected = id + 1;
    if (checked) {
      check_row(jobs, faults);
    }
  }
}

/// One sentence for each row of `query`, whose columns are the two numbers of `sentence`.
Status check_none(const Connection& db, std::string_view query,
                  fmt::format_string<std::int64_t, std::int64_t> sentence, Faults& faults) {
  QUAD_ASSIGN(Statement rows, Statement::prepare(db.get(), query));
  for (;;) {
    QUAD_ASSIGN(const bool row, rows.step());
    if (!row) {
      return {};
    }
    faults.push_back(fmt::format(sentence, rows.integer(0), rows.integer(1)));
  }
}

Status check_revisions(const Connection& db, Faults& faults) {
  return check_none(
      db,
      "SELECT before + 1, revision - 1 FROM (SELECT revision, lag(revision, 1, 0) OVER (ORDER BY "
      "revision) AS before FROM events) WHERE revision <> before + 1 AND NOT EXISTS (SELECT 1 FROM "
      "settings WHERE key = 'records/event_gap/' || (before + 1) AND value = CAST(revision - 1 AS "
      "TEXT))",
      "The events {} to {} are missing", faults);
}

Status check_data(Connection& db, Faults& faults) {
  QUAD_ASSIGN(Statement events,
              Statement::prepare(
                  db.get(), fmt::format("SELECT {} FROM events WHERE data <> ''", kEventColumns)));
  for (;;) {
    QUAD_ASSIGN(const bool row, events.step());
    if (!row) {
      return {};
    }
    if (const auto event = event_from_row(events); !event.ok()) {
      faults.push_back(event.error().message);
    }
  }
}

Status check_all(Connection& db, Faults& faults) {
  QUAD_TRY(check_file(db, faults));
  QUAD_TRY(check_jobs(db, true, faults));
  QUAD_TRY(check_none(db, "SELECT id, 0 FROM jobs WHERE id NOT IN (SELECT job FROM bodies)",
                      "The body of job {}'s request is missing", faults));
  QUAD_TRY(check_none(db, "SELECT job, 0 FROM bodies WHERE job NOT IN (SELECT id FROM jobs)",
                      "There is a body for job {}, which is missing", faults));
  QUAD_TRY(check_none(db,
                      "SELECT id, 0 FROM jobs WHERE NOT EXISTS "
                      "(SELECT 1 FROM events WHERE events.job = jobs.id AND events.job > 0)",
                      "Job {} has no event", faults));
  QUAD_TRY(check_none(
      db, "SELECT DISTINCT job, 0 FROM events WHERE job > 0 AND job NOT IN (SELECT id FROM jobs)",
      "There are events of job {}, which is missing", faults));
  QUAD_TRY(check_none(db, "SELECT job, 0 FROM client_keys WHERE job NOT IN (SELECT id FROM jobs)",
                      "There is a client key for job {}, which is missing", faults));
  QUAD_TRY(check_revisions(db, faults));
  return check_data(db, faults);
}

}  // namespace

Result<std::vector<std::string>> find_faults(Connection& db) {
  Faults faults;
  QUAD_TRY(db.run("BEGIN"));  // one moment for all of it
  const Status status = check_all(db, faults);
  (void)db.run("ROLLBACK");
  if (!status.ok() && faults.empty()) {
    return status.error();
  }
  if (!status.ok()) {
    faults.push_back(status.error().message);  // a damaged file cannot be read to its end
  }
  return faults;
}

Result<std::vector<std::string>> find_gaps(const Connection& db) {
  Faults faults;
  QUAD_TRY(check_jobs(db, false, faults));
  QUAD_TRY(check_revisions(db, faults));
  return faults;
}

}  // namespace quad::store
