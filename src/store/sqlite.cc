#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>
#include <utility>

#include "base/file.h"
#include "base/text.h"
#include "base/time.h"
#include "job/record.h"
#include "store/background_check.h"
#include "store/backup.h"
#include "store/connection.h"
#include "store/faults.h"
#include "store/identity.h"
#include "store/lock.h"
#include "store/mark.h"
#include "store/provenance.h"
#include "store/reserve.h"
#include "store/rows.h"
#include "store/schema.h"
#include "store/store.h"
#include "store/wal_folder.h"

namespace quad::store {

namespace {

namespace fs = std::filesystem;

/// What the log is cut to afterwards, if a long reader had made it grow.
constexpr int kLogBytes = 64 << 20;
constexpr int kCacheKib = 4096;

/// The numbers that are lost, and the event that tells of it.
Status record_loss(Connection& db, const Contents& before, const Judgement& judgement,
                   std::int64_t revision) {
  QUAD_TRY(
      add_job_gap(db, std::max(before.last_job, before.identity.lost_job) + 1, judgement.last_job));
  QUAD_TRY(add_event_gap(db, std::max(before.last_revision, before.identity.lost_revision) + 1,
                         judgement.last_revision));
  QUAD_ASSIGN(
      Statement event,
      Statement::prepare(db.get(), fmt::format("INSERT INTO events ({}) VALUES (?,?,0,0,-1,'',"
                                               "'records.taken_back','server',?,'')",
                                               kEventColumns)));
  const std::string message =
      fmt::format("Records were taken back: {}.", fmt::join(judgement.findings, "; "));
  return event.bind(revision).bind(SystemClock().now().wall.millis).bind(message).run();
}

/// A connection for reading, with the statements that it has run.
class Reader {
 public:
  explicit Reader(Connection db) : db_(std::move(db)) {}

  Result<Statement*> statement(const std::string& text) {
    if (const auto known = statements_.find(text); known != statements_.end()) {
      return &known->second;
    }
    QUAD_ASSIGN(Statement made, Statement::prepare(db_.get(), text));
    return &statements_.emplace(text, std::move(made)).first->second;
  }
  Connection& db() { return db_; }

 private:
  Connection db_;
  std::map<std::string, Statement> statements_;  // at most one for each shape of a filter
};

class SqliteStore final : public Store {
 public:
  static Result<Opened> open(const fs::path& folder, const OpenOptions& options);
  SqliteStore(const SqliteStore&) = delete;
  SqliteStore& operator=(const SqliteStore&) = delete;
  ~SqliteStore() override { mark_.sync(); }

  Result<Loaded> load() override;
  Status commit(const Batch& batch) override;
  [[nodiscard]] Status room() const override;
  Result<std::vector<job::Event>> events(const EventFilter& filter) const override;
  Result<std::string> body(JobId job) const override;
  Status backup(const fs::path& to) const override { return copy_database(path_, to); }
  Result<std::vector<std::string>> check() const override;

 private:
  SqliteStore() = default;
  /// Whether these are the records that were last kept here; makes them so from now on.
  Status recognise(const OpenOptions& options, Opened& opened);
  Status begin_with(const Judgement& judgement, const Surroundings& around);
  [[nodiscard]] Result<Contents> contents() const;
  Status use_log();
  Status prepare();
  Status try_commit(const Batch& batch);
  Status write(const Batch& batch);
  Status write_new(const Batch::NewJob& added);
  Status write_changed(const job::Job& job);
  Status write_event(const job::Event& event);
  /// Readers that wait to be used again. The mutex is held only for taking one out and putting it
  /// back; a reader whose work failed is not put back, but closed.
  Result<Reader> take_reader() const;
  void put_back(Reader reader) const;

  // In this order, so that the database is closed before the lock is let go.
  UniqueFd lock_;
  UniqueFd hot_lock_;  ///< of a hot tier outside of the folder
  fs::path folder_;
  fs::path path_;
  std::vector<fs::path> places_;
  Reserve reserve_;
  Connection db_;
  Statement begin_, commit_, rollback_;
  Statement insert_job_, insert_body_, insert_key_, update_job_, insert_event_, put_setting_,
      drop_setting_;
  std::int64_t last_revision_ = 0;
  std::int64_t last_job_ = 0;
  TakenBack taken_back_ = TakenBack::kNo;
  MarkFile mark_;
  mutable std::mutex readers_mutex_;
  mutable std::vector<Reader> readers_;
  std::unique_ptr<WalFolder> wal_folder_;
  std::unique_ptr<BackgroundCheck> pages_;
};

Result<Opened> SqliteStore::open(const fs::path& folder, const OpenOptions& options) {
  QUAD_TRY(make_folders(folder, 0700));
  auto store = std::unique_ptr<SqliteStore>(new SqliteStore());
  QUAD_ASSIGN(store->lock_, take_lock(folder));
  store->folder_ = folder;
  store->path_ = folder / "quad.db";
  store->reserve_ = Reserve(folder);
  Opened opened;
  QUAD_TRY(store->recognise(options, opened));
  QUAD_TRY(store->prepare());
  QUAD_ASSIGN(store->wal_folder_, WalFolder::start(store->db_, store->path_));
  store->reserve_.refill();
  opened.store = std::move(store);
  return opened;
}

Status SqliteStore::recognise(const OpenOptions& options, Opened& opened) {
  if (!options.hot.empty() && options.hot.parent_path() != folder_) {
    QUAD_TRY(make_folders(options.hot, 0700));
    auto lock = take_lock(options.hot, ".quad-lock");
    if (!lock.ok() && lock.error().code == ErrorCode::kExists) {
      return error(ErrorCode::kExists,
                   fmt::format("Another Quad server keeps checkpoints in {}, and numbers its jobs "
                               "alike; give this one a folder of its own (hot_tier.host_path)",
                               options.hot.string()));
    }
    hot_lock_ = lock.ok() ? std::move(lock).value() : UniqueFd();  // not every file system has them
  }
  const Surroundings around = look_around(folder_, options);
  for (const Place& place : around.places) {
    places_.push_back(place.path);
  }
  Contents found;
  // SQLite takes a log without its database for rubbish and deletes it: only once that is accepted.
  const auto open_it = [&]() -> Status {
    QUAD_ASSIGN(db_, Connection::open(path_, Connection::Mode::kWrite));
    // Whoever is refused must not have folded a log into a database that it may not belong to.
    sqlite3_db_config(db_.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
    return {};
  };
  if (around.has_database) {
    QUAD_TRY(open_it());
    QUAD_ASSIGN(found, contents());
  }
  const Judgement judgement = judge(around, found, options.keys, random_hex(16));
  if (!judgement.findings.empty() && !options.accept_lost) {
    return refusal(folder_, judgement.findings);
  }
  if (!around.has_database) {
    for (const char* left : {"quad.db-wal", "quad.db-shm"}) {
      if (around.has_log) {
        (void)::rename((folder_ / left).c_str(), (folder_ / (std::string(left) + ".lost")).c_str());
      }
    }
    QUAD_TRY(open_it());
  }
  QUAD_TRY(use_log());
  QUAD_TRY(migrate(db_, path_));
  QUAD_TRY(begin_with(judgement, around));
  sqlite3_db_config(db_.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, nullptr);
  opened.lost = judgement.findings;
  opened.notes = judgement.notes;
  if (around.mark && !is_original(folder_, *around.mark)) {
    opened.notes.push_back(fmt::format(
        "{} is a copy, or was moved to another disk; if a server still works on the original, both "
        "give out the same numbers, and only one of them may go on",
        folder_.string()));
  }
  const Mark mark{judgement.identity.life, judgement.identity.generation, last_job_,
                  last_revision_};
  const bool stands = around.mark && is_original(folder_, *around.mark) &&
                      around.mark->life == mark.life && around.mark->generation == mark.generation;
  if (!mark_) {
    QUAD_ASSIGN(mark_,
                stands ? MarkFile::open(folder_, *around.mark) : MarkFile::create(folder_, mark));
  }
  mark_.advance(last_job_, last_revision_);
  return {};
}

Result<Contents> SqliteStore::contents() const {
  Contents found;
  QUAD_ASSIGN(found.schema, db_.integer("PRAGMA user_version"));
  if (found.schema == 0) {
    QUAD_ASSIGN(const std::int64_t tables, db_.integer("SELECT count(*) FROM sqlite_schema"));
    return tables == 0
               ? Result<Contents>(found)
               : error(ErrorCode::kUnavailable,
                       fmt::format("{} is a database, and none of Quad's; put the right one "
                                   "back, or move it away",
                                   path_.string()));
  }
  QUAD_ASSIGN(found.identity, read_identity(db_));
  QUAD_ASSIGN(found.last_job, db_.integer("SELECT max(id) FROM jobs"));
  QUAD_ASSIGN(found.last_revision, db_.integer("SELECT max(revision) FROM events"));
  return found;
}

Status SqliteStore::use_log() {
  QUAD_ASSIGN(const std::string mode, db_.text("PRAGMA journal_mode=WAL"));
  if (mode != "wal") {
    return error(
        ErrorCode::kUnsupported,
        fmt::format(
            "The file system of {} cannot share memory between processes, which the store's "
            "write-ahead log needs; use a data directory on a local disk",
            folder_.string()));
  }
  return db_.run(
      fmt::format("PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0; "
                  "PRAGMA journal_size_limit={}; PRAGMA cache_size=-{};",
                  kLogBytes, kCacheKib));
}

/// In this order, so that a start that is broken off is taken up again by the next: the mark of new
/// records, what is set aside, the folders, the database, and last the mark of how far it is.
Status SqliteStore::begin_with(const Judgement& judgement, const Surroundings& around) {
  const Identity& identity = judgement.identity;
  QUAD_ASSIGN(const Contents before, contents());
  const bool lost = !judgement.findings.empty();
  if (before.identity.life.empty() && !around.mark && !lost) {
    QUAD_ASSIGN(mark_, MarkFile::create(folder_, {identity.life, identity.generation}));
  }
  for (const Place& place : judgement.strange) {
    QUAD_TRY(set_aside(place));
  }
  for (const Place& place : around.places) {
    QUAD_TRY(mark_place(place, identity));
  }
  last_job_ = std::max(judgement.last_job, before.last_job);
  last_revision_ = std::max(judgement.last_revision, before.last_revision);
  taken_back_ = identity.taken_back;
  const bool same = before.identity.life == identity.life &&
                    before.identity.keys == identity.keys &&
                    before.identity.places == identity.places && !lost;
  if (same) {
    return {};
  }
  QUAD_TRY(db_.run("BEGIN IMMEDIATE"));
  Status written = write_identity(db_, identity);
  if (written.ok() && lost) {
    written = record_loss(db_, before, judgement, ++last_revision_);
  }
  if (written.ok()) {
    written = db_.run("COMMIT");
  }
  if (!written.ok()) {
    (void)db_.run("ROLLBACK");
  }
  return written;
}

Status SqliteStore::room() const {
  if (pages_) {
    QUAD_TRY(pages_->damage());
  }
  return reserve_.room();
}

Status SqliteStore::prepare() {
  const auto make = [this](Statement& statement, std::string_view text) -> Status {
    QUAD_ASSIGN(statement, Statement::prepare(db_.get(), text));
    return {};
  };
  QUAD_TRY(make(begin_, "BEGIN IMMEDIATE"));
  QUAD_TRY(make(commit_, "COMMIT"));
  QUAD_TRY(make(rollback_, "ROLLBACK"));
  QUAD_TRY(make(insert_job_,
                "INSERT INTO jobs (id, status, owner, name, submitted_at, record, request) "
                "VALUES (?,?,?,?,?,?,?)"));
  QUAD_TRY(make(insert_body_, "INSERT INTO bodies (job, body) VALUES (?,?)"));
  QUAD_TRY(make(insert_key_, "INSERT INTO client_keys (owner, key, job) VALUES (?,?,?)"));
  QUAD_TRY(make(update_job_, "UPDATE jobs SET status=?, record=? WHERE id=?"));
  QUAD_TRY(make(insert_event_, fmt::format("INSERT INTO events ({}) VALUES (?,?,?,?,?,?,?,?,?,?)",
                                           kEventColumns)));
  QUAD_TRY(make(put_setting_, "INSERT OR REPLACE INTO settings (key, value) VALUES (?,?)"));
  return make(drop_setting_, "DELETE FROM settings WHERE key=?");
}

Result<Reader> SqliteStore::take_reader() const {
  {
    const std::lock_guard lock(readers_mutex_);
    if (!readers_.empty()) {
      Reader reader = std::move(readers_.back());
      readers_.pop_back();
      return reader;
    }
  }
  QUAD_ASSIGN(Connection db, Connection::open(path_, Connection::Mode::kRead));
  return Reader(std::move(db));
}

void SqliteStore::put_back(Reader reader) const {
  constexpr std::size_t kKept = 4;
  const std::lock_guard lock(readers_mutex_);
  if (readers_.size() < kKept) {
    readers_.push_back(std::move(reader));
  }
}

Result<Loaded> SqliteStore::load() {
  Loaded loaded;
  loaded.last_job = JobId(last_job_);
  loaded.taken_back = taken_back_ != TakenBack::kNo;
  loaded.strangers = taken_back_ == TakenBack::kStrange;
  QUAD_ASSIGN(const std::int64_t count, db_.integer("SELECT count(*) FROM jobs"));
  loaded.jobs.reserve(static_cast<std::size_t>(count));
  QUAD_ASSIGN(Statement jobs,
              Statement::prepare(db_.get(), "SELECT id, record, request FROM jobs ORDER BY id"));
  for (;;) {
    QUAD_ASSIGN(const bool row, jobs.step());
    if (!row) {
      break;
    }
    QUAD_ASSIGN(job::Job job, job_from_texts(JobId(jobs.integer(0)), jobs.text(1), jobs.text(2)));
    if (loaded.taken_back && !job::is_terminal(job.status)) {
      if (const Epoch last = last_epoch_in(places_, job.id); last > job.epoch()) {
        loaded.lost_attempts.emplace_back(job.id, last);
      }
    }
    loaded.jobs.push_back(std::move(job));
  }
  loaded.last_revision = Revision(last_revision_);
  QUAD_ASSIGN(Statement settings,
              Statement::prepare(db_.get(), "SELECT key, value FROM settings ORDER BY key"));
  for (;;) {
    QUAD_ASSIGN(const bool row, settings.step());
    if (!row) {
      break;
    }
    if (!settings.text(0).starts_with(kIdentityPrefix)) {
      loaded.settings.emplace_back(settings.text(0), settings.text(1));
    }
  }
  QUAD_ASSIGN(Statement keys,
              Statement::prepare(db_.get(), "SELECT owner, key, job FROM client_keys"));
  for (;;) {
    QUAD_ASSIGN(const bool row, keys.step());
    if (!row) {
      break;
    }
    loaded.client_keys.emplace_back(
        std::make_pair(std::string(keys.text(0)), std::string(keys.text(1))),
        JobId(keys.integer(2)));
  }
  if (!pages_) {
    pages_ = std::make_unique<BackgroundCheck>(path_);
  }
  return loaded;
}

Status SqliteStore::commit(const Batch& batch) {
  if (batch.empty()) {
    return {};
  }
  std::int64_t revision = last_revision_;
  for (const job::Event& event : batch.events) {
    if (event.revision.value() != ++revision) {
      return error(ErrorCode::kInternal,
                   fmt::format("Event {} is to be recorded where number {} is due",
                               event.revision.value(), revision));
    }
  }
  Status status = try_commit(batch);
  if (!status.ok() && status.error().code == ErrorCode::kExhausted && reserve_.spend()) {
    status = try_commit(batch);
  } else {
    reserve_.refill();
  }
  if (status.ok()) {
    last_revision_ = revision;
    for (const Batch::NewJob& added : batch.new_jobs) {
      last_job_ = std::max(last_job_, added.job->id.value());
    }
    mark_.advance(last_job_, last_revision_);
  }
  return status;
}

Status SqliteStore::try_commit(const Batch& batch) {
  QUAD_TRY(begin_.run());
  Status status = write(batch);
  if (status.ok()) {
    status = commit_.run();
  }
  if (!status.ok()) {
    // After some failures SQLite has rolled back by itself, and says so here.
    if (sqlite3_get_autocommit(db_.get()) == 0) {
      (void)rollback_.run();
    }
  }
  return status;
}

Status SqliteStore::write(const Batch& batch) {
  for (const Batch::NewJob& added : batch.new_jobs) {
    QUAD_TRY(write_new(added));
  }
  for (const job::Job* job : batch.changed_jobs) {
    QUAD_TRY(write_changed(*job));
  }
  for (const job::Event& event : batch.events) {
    QUAD_TRY(write_event(event));
  }
  for (const auto& [key, value] : batch.settings) {
    if (value.empty()) {
      QUAD_TRY(drop_setting_.bind(key).run());
    } else {
      QUAD_TRY(put_setting_.bind(key).bind(value).run());
    }
  }
  return {};
}

Status SqliteStore::write_new(const Batch::NewJob& added) {
  const job::Job& job = *added.job;
  const std::string record = to_text(job::to_json(job));
  json::object request_object = job::to_json(*job.request);
  request_object.erase("body");
  const std::string request = to_text(request_object);
  QUAD_TRY(insert_job_.bind(job.id.value())
               .bind(to_string(job.status))
               .bind(job.request->owner)
               .bind(job.request->name)
               .bind(job.submitted_at.millis)
               .bind(record)
               .bind(request)
               .run());
  QUAD_TRY(insert_body_.bind(job.id.value()).bind(job.request->body).run());
  if (added.client_key.empty()) {
    return {};
  }
  return insert_key_.bind(job.request->owner).bind(added.client_key).bind(job.id.value()).run();
}

Status SqliteStore::write_changed(const job::Job& job) {
  const std::string record = to_text(job::to_json(job));
  QUAD_TRY(update_job_.bind(to_string(job.status)).bind(record).bind(job.id.value()).run());
  if (sqlite3_changes(db_.get()) != 1) {
    return error(ErrorCode::kInternal,
                 fmt::format("Job {} changed but was never recorded", job.id.value()));
  }
  return {};
}

Status SqliteStore::write_event(const job::Event& event) {
  const std::string data = event.data.empty() ? std::string() : to_text(event.data);
  return insert_event_.bind(event.revision.value())
      .bind(event.at.millis)
      .bind(event.job.value())
      .bind(event.epoch.value())
      .bind(event.rank.value())
      .bind(event.node)
      .bind(event.kind)
      .bind(event.actor)
      .bind(event.message)
      .bind(data)
      .run();
}

Result<std::vector<job::Event>> SqliteStore::events(const EventFilter& filter) const {
  QUAD_ASSIGN(Reader reader, take_reader());
  const std::string text = fmt::format(
      "SELECT {} FROM events WHERE revision > ?1 AND revision <= ?6{}{}{} ORDER BY revision {} "
      "LIMIT ?5",
      kEventColumns,
      !filter.job               ? ""
      : filter.job->value() > 0 ? " AND job = ?2 AND job > 0"
                                : " AND job = ?2",
      !filter.node           ? ""
      : filter.node->empty() ? " AND node = ?3"
                             : " AND node = ?3 AND node <> ''",
      filter.kind_prefix.empty() ? "" : " AND substr(kind, 1, length(?4)) = ?4",
      filter.newest_first ? "DESC" : "ASC");
  QUAD_ASSIGN(Statement * query, reader.statement(text));
  constexpr auto kMost = static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max());
  query->bind(filter.after.value())
      .bind(filter.job.value_or(JobId(0)).value())
      .bind(filter.node ? std::string_view(*filter.node) : std::string_view())
      .bind(filter.kind_prefix)
      .bind(static_cast<std::int64_t>(std::min(filter.limit, kMost)))
      .bind(filter.until.value_or(Revision(std::numeric_limits<std::int64_t>::max())).value());
  std::vector<job::Event> found;
  for (;;) {
    QUAD_ASSIGN(const bool row, query->step());
    if (!row) {
      break;
    }
    QUAD_ASSIGN(job::Event event, event_from_row(*query));
    found.push_back(std::move(event));
  }
  put_back(std::move(reader));
  return found;
}

Result<std::string> SqliteStore::body(JobId job) const {
  QUAD_ASSIGN(Reader reader, take_reader());
  QUAD_ASSIGN(Statement * query, reader.statement("SELECT body FROM bodies WHERE job = ?"));
  QUAD_ASSIGN(const bool row, query->bind(job.value()).step());
  std::optional<std::string> body;
  if (row) {
    body = query->text(0);
    query->reset();
  }
  put_back(std::move(reader));
  if (!body) {
    return error(ErrorCode::kNotFound, fmt::format("There is no job {}", job.value()));
  }
  return *std::move(body);
}

Result<std::vector<std::string>> SqliteStore::check() const {
  QUAD_ASSIGN(Connection db, Connection::open(path_, Connection::Mode::kRead));
  return find_faults(db);
}

}  // namespace

Result<Opened> open_sqlite(const std::filesystem::path& folder, const OpenOptions& options) {
  return SqliteStore::open(folder, options);
}

Result<std::unique_ptr<Store>> open_sqlite(const std::filesystem::path& folder) {
  OpenOptions options;
  options.hot = folder / "hot";
  QUAD_ASSIGN(Opened opened, open_sqlite(folder, options));
  return std::move(opened.store);
}

}  // namespace quad::store
