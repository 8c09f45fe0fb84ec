#include "store/connection.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>
#include <utility>

#include "base/file.h"

namespace quad::store {

namespace {

constexpr int kBusyMillis = 10'000;

}  // namespace

Error sqlite_error(sqlite3* db, std::string_view what) {
  // A failed COMMIT leaves no system_errno, but does leave errno, which the callers have cleared
  // before.
  const int last = errno;
  const int code = sqlite3_errcode(db) & 0xFF;
  const int reason = sqlite3_system_errno(db) != 0 ? sqlite3_system_errno(db) : last;
  const bool refused = code == SQLITE_IOERR || code == SQLITE_CANTOPEN;
  if (code == SQLITE_FULL ||
      (refused && (reason == ENOSPC || reason == EDQUOT || reason == EFBIG))) {
    return error(
        ErrorCode::kExhausted,
        fmt::format("The disk of the data directory is full, so {} failed; free some space there",
                    what));
  }
  if (code == SQLITE_READONLY || (refused && (reason == EROFS || reason == EACCES))) {
    return error(ErrorCode::kIo,
                 fmt::format("The data directory cannot be written to, so {} failed; check its "
                             "owner, its mode and whether its disk became read-only",
                             what));
  }
  if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB) {
    return error(
        ErrorCode::kIo,
        fmt::format("The database file is damaged, so {} failed; restore the last backup", what));
  }
  if (code == SQLITE_CONSTRAINT || code == SQLITE_MISUSE) {
    return error(ErrorCode::kInternal,
                 fmt::format("{} broke a rule of the store: {}", what, sqlite3_errmsg(db)));
  }
  if (refused && reason != 0) {
    return errno_error(fmt::format("{} failed: {}", what, sqlite3_errmsg(db)), reason);
  }
  return error(ErrorCode::kIo, fmt::format("{} failed: {}", what, sqlite3_errmsg(db)));
}

Result<Statement> Statement::prepare(sqlite3* db, std::string_view text) {
  Statement statement;
  statement.db_ = db;
  errno = 0;
  if (sqlite3_prepare_v3(db, text.data(), static_cast<int>(text.size()), SQLITE_PREPARE_PERSISTENT,
                         &statement.statement_, nullptr) != SQLITE_OK) {
    return sqlite_error(db, "preparing a statement");
  }
  return statement;
}

Statement::Statement(Statement&& other) noexcept
    : db_(other.db_),
      statement_(std::exchange(other.statement_, nullptr)),
      bound_(std::exchange(other.bound_, 0)) {}

Statement& Statement::operator=(Statement&& other) noexcept {
  std::swap(db_, other.db_);
  std::swap(statement_, other.statement_);
  std::swap(bound_, other.bound_);
  return *this;
}

Statement& Statement::bind(std::int64_t value) {
  sqlite3_bind_int64(statement_, ++bound_, value);
  return *this;
}

Statement& Statement::bind(std::string_view value) {
  // An empty view may have no address, which SQLite would take for NULL.
  sqlite3_bind_text64(statement_, ++bound_, value.empty() ? "" : value.data(), value.size(),
                      SQLITE_STATIC, SQLITE_UTF8);
  return *this;
}

Result<bool> Statement::step() {
  errno = 0;
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) {
    return true;
  }
  if (code == SQLITE_DONE) {
    reset();
    return false;
  }
  Error failure = sqlite_error(db_, "the store's work");
  reset();
  return failure;
}

Status Statement::run() {
  QUAD_ASSIGN(const bool row, step());
  if (row) {
    reset();
  }
  return {};
}

void Statement::reset() {
  sqlite3_reset(statement_);
  bound_ = 0;
}

std::string_view Statement::text(int column) const {
  const auto* bytes = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
  if (bytes == nullptr) {
    return {};
  }
  return {bytes, static_cast<std::size_t>(sqlite3_column_bytes(statement_, column))};
}

Connection::Connection(Connection&& other) noexcept : db_(std::exchange(other.db_, nullptr)) {}

Connection& Connection::operator=(Connection&& other) noexcept {
  std::swap(db_, other.db_);
  return *this;
}

Result<Connection> Connection::open(const std::filesystem::path& path, Mode mode) {
  int flags = SQLITE_OPEN_NOMUTEX;
  if (mode == Mode::kWrite) {
    // SQLite would make the file with the umask's mode, and gives its companions the mode that it
    // finds.
    const UniqueFd made(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!made) {
      return errno_error(fmt::format("Cannot open {}", path.string()), errno);
    }
    flags |= SQLITE_OPEN_READWRITE;
  } else {
    flags |= SQLITE_OPEN_READONLY;
  }
  Connection connection;
  errno = 0;
  if (sqlite3_open_v2(path.c_str(), &connection.db_, flags, nullptr) != SQLITE_OK) {
    return sqlite_error(connection.db_, fmt::format("opening {}", path.string()));
  }
  sqlite3_busy_timeout(connection.db_, kBusyMillis);
  return connection;
}

Status Connection::run(const std::string& text) {
  errno = 0;
  if (sqlite3_exec(db_, text.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) {
    return sqlite_error(db_, "the store's work");
  }
  return {};
}

Result<std::int64_t> Connection::integer(std::string_view query) const {
  QUAD_ASSIGN(Statement statement, Statement::prepare(db_, query));
  QUAD_ASSIGN(const bool row, statement.step());
  return row ? statement.integer(0) : std::int64_t{0};
}

Result<std::string> Connection::text(std::string_view query) const {
  QUAD_ASSIGN(Statement statement, Statement::prepare(db_, query));
  QUAD_ASSIGN(const bool row, statement.step());
  return row ? std::string(statement.text(0)) : std::string();
}

}  // namespace quad::store
