#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <mutex>

#include "base/file.h"
#include "job/record.h"
#include "store/store.h"

namespace quad::store {

namespace {

namespace fs = std::filesystem;

/// Each entry brings the schema from version i to i + 1. Entries are never changed once released, only added.
constexpr std::array<const char*, 1> kMigrations = {
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

constexpr int kBusyMillis = 10'000;
/// Pages of the write-ahead log before it is folded into the database: 16 MiB, so that a burst is not held up.
constexpr int kCheckpointPages = 4000;

Error sqlite_error(sqlite3* db, std::string_view what) {
  const int code = sqlite3_errcode(db);
  const bool full = code == SQLITE_FULL || (code == SQLITE_IOERR && sqlite3_system_errno(db) == ENOSPC);
  if (full) {
    return error(ErrorCode::kExhausted, fmt::format("The disk of the data directory is full, so {} failed", what));
  }
  if (code == SQLITE_READONLY) {
    return error(ErrorCode::kIo, fmt::format("The data directory cannot be written to, so {} failed", what));
  }
  return error(ErrorCode::kIo, fmt::format("{} failed: {}", what, sqlite3_errmsg(db)));
}

/// One prepared statement. Values are bound in order; step() is called until it gives no row.
class Statement {
 public:
  Statement() = default;
  Statement(sqlite3* db, const std::string& text) : db_(db) {
    failed_ = sqlite3_prepare_v3(db, text.c_str(), -1, SQLITE_PREPARE_PERSISTENT, &statement_, nullptr) != SQLITE_OK;
  }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  Statement(Statement&& other) noexcept
      : db_(other.db_), statement_(std::exchange(other.statement_, nullptr)), failed_(other.failed_) {}
  Statement& operator=(Statement&& other) noexcept {
    std::swap(db_, other.db_);
    std::swap(statement_, other.statement_);
    std::swap(failed_, other.failed_);
    return *this;
  }
  ~Statement() { sqlite3_finalize(statement_); }

  Statement& bind(std::int64_t value) {
    sqlite3_bind_int64(statement_, ++bound_, value);
    return *this;
  }
  /// The text must live until the statement has been stepped.
  Statement& bind(std::string_view value) {
    sqlite3_bind_text64(statement_, ++bound_, value.data(), value.size(), SQLITE_STATIC, SQLITE_UTF8);
    return *this;
  }

  /// Whether there is a row; resets the statement after the last one and after a failure.
  Result<bool> step() {
    if (failed_) {
      return sqlite_error(db_, "a statement");
    }
    const int code = sqlite3_step(statement_);
    if (code == SQLITE_ROW) {
      return true;
    }
    const Error failure = code == SQLITE_DONE ? Error{} : sqlite_error(db_, "recording");
    reset();
    return code == SQLITE_DONE ? Result<bool>(false) : Result<bool>(failure);
  }
  /// Runs a statement that gives no rows.
  Status run() {
    QUAD_ASSIGN(const bool row, step());
    if (row) {
      reset();
    }
    return {};
  }
  void reset() {
    sqlite3_reset(statement_);
    bound_ = 0;
  }

  [[nodiscard]] std::int64_t integer(int column) const { return sqlite3_column_int64(statement_, column); }
  [[nodiscard]] std::string_view text(int column) const {
    const auto* bytes = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
    return bytes == nullptr ? std::string_view()
                            : std::string_view(bytes, static_cast<std::size_t>(sqlite3_column_bytes(statement_, column)));
  }

 private:
  sqlite3* db_ = nullptr;
  sqlite3_stmt* statement_ = nullptr;
  bool failed_ = false;
  int bound_ = 0;
};

/// A connection that closes itself.
class Connection {
 public:
  Connection() = default;
  explicit Connection(sqlite3* db) : db_(db) {}
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  Connection(Connection&& other) noexcept : db_(std::exchange(other.db_, nullptr)) {}
  Connection& operator=(Connection&& other) noexcept {
    std::swap(db_, other.db_);
    return *this;
  }
  ~Connection() { sqlite3_close_v2(db_); }

  static Result<Connection> open(const fs::path& path, bool writer) {
    sqlite3* raw = nullptr;
    const int flags = (writer ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY) | SQLITE_OPEN_NOMUTEX;
    const int code = sqlite3_open_v2(path.c_str(), &raw, flags, nullptr);
    Connection connection(raw);
    if (code != SQLITE_OK) {
      return error(ErrorCode::kIo, fmt::format("Cannot open {}: {}", path.string(), sqlite3_errstr(code)));
    }
    sqlite3_busy_timeout(raw, kBusyMillis);
    return connection;
  }
  Status run(const char* text) {
    if (sqlite3_exec(db_, text, nullptr, nullptr, nullptr) != SQLITE_OK) {
      return sqlite_error(db_, "recording");
    }
    return {};
  }
  [[nodiscard]] sqlite3* get() const { return db_; }

 private:
  sqlite3* db_ = nullptr;
};

/// The lock by which one server owns a data directory. The kernel drops it with the process, however that dies.
Result<UniqueFd> take_lock(const fs::path& folder) {
  const fs::path path = folder / "lock";
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) {
    return errno_error(fmt::format("Cannot open {}", path.string()), errno);
  }
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) {
      return errno_error(fmt::format("Cannot lock {}", path.string()), errno);
    }
    const std::string holder = read_file(path, 256).value_or("");
    return error(ErrorCode::kExists,
                 fmt::format("Another Quad server ({}) already works on {}; stop it, or give this one another --data-dir",
                             holder.empty() ? "of an unknown process" : holder, folder.string()));
  }
  if (::ftruncate(fd.get(), 0) != 0) {
    return errno_error(fmt::format("Cannot write {}", path.string()), errno);
  }
  QUAD_TRY(write_all(fd.get(), fmt::format("process {}", ::getpid())));
  return fd;
}

class SqliteStore final : public Store {
 public:
  static Result<std::unique_ptr<Store>> open(const fs::path& folder) {
    QUAD_TRY(make_folders(folder, 0700));
    auto store = std::unique_ptr<SqliteStore>(new SqliteStore());
    QUAD_ASSIGN(store->lock_, take_lock(folder));
    store->path_ = folder / "quad.db";
    QUAD_ASSIGN(store->db_, Connection::open(store->path_, true));
    ::chmod(store->path_.c_str(), 0600);
    Connection& db = store->db_;
    QUAD_TRY(db.run("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"));
    QUAD_TRY(db.run(fmt::format("PRAGMA wal_autocheckpoint={}; PRAGMA cache_size=-4096;", kCheckpointPages).c_str()));
    QUAD_TRY(store->migrate());
    store->prepare();
    return std::unique_ptr<Store>(std::move(store));
  }

  Result<Loaded> load() override;
  Status commit(const Batch& batch) override;
  Result<std::vector<job::Event>> events(const EventFilter& filter) const override;
  Result<std::string> body(JobId job) const override;
  Status backup(const fs::path& to) const override;
  Result<std::vector<std::string>> check() const override;

 private:
  SqliteStore() = default;

  Status migrate() {
    QUAD_ASSIGN(const std::int64_t version, single("PRAGMA user_version"));
    if (version > static_cast<std::int64_t>(kMigrations.size())) {
      return error(ErrorCode::kUnsupported,
                   fmt::format("{} was written by a newer Quad (schema {}, this one knows {}); use that version",
                               path_.string(), version, kMigrations.size()));
    }
    for (auto next = static_cast<std::size_t>(version); next < kMigrations.size(); ++next) {
      QUAD_TRY(db_.run(
          fmt::format("BEGIN IMMEDIATE; {}; PRAGMA user_version={}; COMMIT;", kMigrations[next], next + 1).c_str()));
    }
    return {};
  }

  Result<std::int64_t> single(const char* text) const {
    Statement statement(db_.get(), text);
    QUAD_ASSIGN(const bool row, statement.step());
    return row ? statement.integer(0) : 0;
  }

  void prepare() {
    sqlite3* db = db_.get();
    insert_job_ = Statement(db,
                            "INSERT INTO jobs (id, status, owner, name, submitted_at, record, request) "
                            "VALUES (?,?,?,?,?,?,?)");
    insert_body_ = Statement(db, "INSERT INTO bodies (job, body) VALUES (?,?)");
    insert_key_ = Statement(db, "INSERT INTO client_keys (owner, key, job) VALUES (?,?,?)");
    update_job_ = Statement(db, "UPDATE jobs SET status=?, record=? WHERE id=?");
    insert_event_ = Statement(db,
                              "INSERT INTO events (revision, at, job, epoch, rank, node, kind, actor, message, data) "
                              "VALUES (?,?,?,?,?,?,?,?,?,?)");
    put_setting_ = Statement(db, "INSERT OR REPLACE INTO settings (key, value) VALUES (?,?)");
    drop_setting_ = Statement(db, "DELETE FROM settings WHERE key=?");
  }

  Status write(const Batch& batch);

  /// A connection for one reader; kept and used again. The lock is held only for taking and giving back.
  Result<Connection> reader() const {
    {
      const std::lock_guard lock(readers_mutex_);
      if (!readers_.empty()) {
        Connection connection = std::move(readers_.back());
        readers_.pop_back();
        return connection;
      }
    }
    return Connection::open(path_, false);
  }
  void give_back(Connection connection) const {
    constexpr std::size_t kKept = 4;
    const std::lock_guard lock(readers_mutex_);
    if (readers_.size() < kKept) {
      readers_.push_back(std::move(connection));
    }
  }

  UniqueFd lock_;
  fs::path path_;
  Connection db_;
  Statement insert_job_, insert_body_, insert_key_, update_job_, insert_event_, put_setting_, drop_setting_;
  mutable std::mutex readers_mutex_;
  mutable std::vector<Connection> readers_;
};

Result<Loaded> SqliteStore::load() {
  Loaded loaded;
  Statement jobs(db_.get(), "SELECT record, request FROM jobs ORDER BY id");
  for (;;) {
    QUAD_ASSIGN(const bool row, jobs.step());
    if (!row) {
      break;
    }
    QUAD_ASSIGN(const json::object request_object, parse_json_object(jobs.text(1)));
    QUAD_ASSIGN(job::Request request, job::request_from_json(request_object));
    QUAD_ASSIGN(const json::object object, parse_json_object(jobs.text(0)));
    QUAD_ASSIGN(job::Job job, job::job_from_json(object, std::make_shared<job::Request>(std::move(request))));
    loaded.jobs.push_back(std::move(job));
  }
  QUAD_ASSIGN(const std::int64_t last, single("SELECT max(revision) FROM events"));
  loaded.last_revision = Revision(last);
  Statement settings(db_.get(), "SELECT key, value FROM settings ORDER BY key");
  for (;;) {
    QUAD_ASSIGN(const bool row, settings.step());
    if (!row) {
      break;
    }
    loaded.settings.emplace_back(settings.text(0), settings.text(1));
  }
  Statement keys(db_.get(), "SELECT owner, key, job FROM client_keys");
  for (;;) {
    QUAD_ASSIGN(const bool row, keys.step());
    if (!row) {
      break;
    }
    loaded.client_keys.emplace_back(std::make_pair(std::string(keys.text(0)), std::string(keys.text(1))),
                                    JobId(keys.integer(2)));
  }
  return loaded;
}

Status SqliteStore::commit(const Batch& batch) {
  QUAD_TRY(db_.run("BEGIN IMMEDIATE"));
  Status status = write(batch);
  if (status.ok()) {
    status = db_.run("COMMIT");
  }
  if (!status.ok() && sqlite3_get_autocommit(db_.get()) == 0) {
    (void)db_.run("ROLLBACK");
  }
  return status;
}

Status SqliteStore::write(const Batch& batch) {
  for (const Batch::NewJob& added : batch.new_jobs) {
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
    if (!added.client_key.empty()) {
      QUAD_TRY(insert_key_.bind(job.request->owner).bind(added.client_key).bind(job.id.value()).run());
    }
  }
  for (const job::Job* job : batch.changed_jobs) {
    const std::string record = to_text(job::to_json(*job));
    QUAD_TRY(update_job_.bind(to_string(job->status)).bind(record).bind(job->id.value()).run());
  }
  for (const job::Event& event : batch.events) {
    const std::string data = event.data.empty() ? std::string() : to_text(event.data);
    QUAD_TRY(insert_event_.bind(event.revision.value())
                 .bind(event.at.millis)
                 .bind(event.job.value())
                 .bind(event.epoch.value())
                 .bind(event.rank.value())
                 .bind(event.node)
                 .bind(event.kind)
                 .bind(event.actor)
                 .bind(event.message)
                 .bind(data)
                 .run());
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

Result<std::vector<job::Event>> SqliteStore::events(const EventFilter& filter) const {
  QUAD_ASSIGN(Connection db, reader());
  std::vector<job::Event> found;
  {
    Statement query(db.get(),
                    fmt::format("SELECT revision, at, job, epoch, rank, node, kind, actor, message, data FROM events "
                                "WHERE revision > ?1{}{}{} ORDER BY revision {} LIMIT ?5",
                                filter.job ? " AND job = ?2 AND job > 0" : "",
                                filter.node ? " AND node = ?3 AND node <> ''" : "",
                                filter.kind_prefix.empty() ? "" : " AND substr(kind, 1, length(?4)) = ?4",
                                filter.newest_first ? "DESC" : "ASC"));
    query.bind(filter.after.value())
        .bind(filter.job.value_or(JobId(0)).value())
        .bind(filter.node ? std::string_view(*filter.node) : std::string_view())
        .bind(filter.kind_prefix)
        .bind(static_cast<std::int64_t>(filter.limit));
    for (;;) {
      QUAD_ASSIGN(const bool row, query.step());
      if (!row) {
        break;
      }
      job::Event event;
      event.revision = Revision(query.integer(0));
      event.at = WallTime{query.integer(1)};
      event.job = JobId(query.integer(2));
      event.epoch = Epoch(static_cast<std::int32_t>(query.integer(3)));
      event.rank = Rank(static_cast<std::int32_t>(query.integer(4)));
      event.node = query.text(5);
      event.kind = query.text(6);
      event.actor = query.text(7);
      event.message = query.text(8);
      if (const std::string_view data = query.text(9); !data.empty()) {
        QUAD_ASSIGN(event.data, parse_json_object(data));
      }
      found.push_back(std::move(event));
    }
  }
  give_back(std::move(db));
  return found;
}

Result<std::string> SqliteStore::body(JobId job) const {
  QUAD_ASSIGN(Connection db, reader());
  std::string body;
  {
    Statement query(db.get(), "SELECT body FROM bodies WHERE job = ?");
    query.bind(job.value());
    QUAD_ASSIGN(const bool row, query.step());
    if (!row) {
      return error(ErrorCode::kNotFound, fmt::format("There is no job {}", job.value()));
    }
    body = query.text(0);
  }
  give_back(std::move(db));
  return body;
}

Status SqliteStore::backup(const fs::path& to) const {
  const fs::path temporary = to.string() + ".tmp";
  QUAD_ASSIGN(const Connection source, Connection::open(path_, false));
  {
    QUAD_ASSIGN(const Connection target, Connection::open(temporary, true));
    ::chmod(temporary.c_str(), 0600);
    sqlite3_backup* copy = sqlite3_backup_init(target.get(), "main", source.get(), "main");
    if (copy == nullptr) {
      return sqlite_error(target.get(), "the backup");
    }
    constexpr int kPagesAtOnce = 4096;
    int code = SQLITE_OK;
    while (code == SQLITE_OK || code == SQLITE_BUSY || code == SQLITE_LOCKED) {
      code = sqlite3_backup_step(copy, kPagesAtOnce);
    }
    sqlite3_backup_finish(copy);
    if (code != SQLITE_DONE) {
      const Error failure = sqlite_error(target.get(), "the backup");
      ::unlink(temporary.c_str());
      return failure;
    }
  }
  const UniqueFd fd(::open(temporary.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0 || ::rename(temporary.c_str(), to.c_str()) != 0) {
    return errno_error(fmt::format("Cannot write {}", to.string()), errno);
  }
  return sync_folder(to.parent_path());
}

Result<std::vector<std::string>> SqliteStore::check() const {
  std::vector<std::string> faults;
  QUAD_ASSIGN(const Connection db, reader());
  QUAD_TRY(const_cast<Connection&>(db).run("BEGIN"));  // one consistent view
  Statement integrity(db.get(), "PRAGMA integrity_check");
  for (;;) {
    QUAD_ASSIGN(const bool row, integrity.step());
    if (!row) {
      break;
    }
    if (integrity.text(0) != "ok") {
      faults.push_back(fmt::format("The database file is damaged: {}", integrity.text(0)));
    }
  }
  Statement jobs(db.get(), "SELECT id, status, record, request FROM jobs ORDER BY id");
  std::int64_t expected = 0;
  for (;;) {
    QUAD_ASSIGN(const bool row, jobs.step());
    if (!row) {
      break;
    }
    const std::int64_t id = jobs.integer(0);
    if (id != ++expected) {
      faults.push_back(fmt::format("Job {} is missing", expected));
      expected = id;
    }
    const auto object = parse_json_object(jobs.text(2));
    const auto request_object = parse_json_object(jobs.text(3));
    if (!object.ok() || !request_object.ok()) {
      faults.push_back(fmt::format("The record of job {} cannot be read", id));
      continue;
    }
    auto request = job::request_from_json(*request_object);
    if (!request.ok()) {
      faults.push_back(fmt::format("Job {}: {}", id, request.error().message));
      continue;
    }
    const auto job = job::job_from_json(*object, std::make_shared<job::Request>(std::move(request).value()));
    if (!job.ok()) {
      faults.push_back(fmt::format("Job {}: {}", id, job.error().message));
    } else if (const std::string fault = job::check(*job); !fault.empty()) {
      faults.push_back(fmt::format("Job {}: {}", id, fault));
    } else if (to_string(job->status) != jobs.text(1)) {
      faults.push_back(fmt::format("Job {} is {} in its record and {} in its row", id, to_string(job->status), jobs.text(1)));
    }
  }
  Statement count(db.get(),
                  "SELECT (SELECT count(*) FROM events), (SELECT coalesce(max(revision), 0) FROM events), "
                  "(SELECT count(*) FROM jobs WHERE id NOT IN (SELECT job FROM bodies)), "
                  "(SELECT count(*) FROM jobs WHERE id NOT IN (SELECT job FROM events))");
  QUAD_ASSIGN(const bool row, count.step());
  if (row && count.integer(0) != count.integer(1)) {
    faults.push_back(fmt::format("There are {} events, but the last is number {}", count.integer(0), count.integer(1)));
  }
  if (row && count.integer(2) + count.integer(3) != 0) {
    faults.push_back(fmt::format("{} jobs have no body and {} no event", count.integer(2), count.integer(3)));
  }
  return faults;
}

}  // namespace

Result<std::unique_ptr<Store>> open_sqlite(const std::filesystem::path& folder) { return SqliteStore::open(folder); }

}  // namespace quad::store
