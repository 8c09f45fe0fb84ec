// store/connection.h
//
// SQLite as values and Results: a connection that closes itself, a statement that is prepared once
// and run often, and the sentences that its failures become. One thread at a time for each
// connection and its statements; a statement must not outlive its connection.

#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace quad::store {

/// The last failure on `db` as a sentence: kExhausted for a full disk, kIo for what the operating
/// system refused, kInternal for a rule of the schema that Quad itself broke. `errno` is that of
/// the failed call, or 0.
Error sqlite_error(sqlite3* db, std::string_view what);

/// One prepared statement. Values are bound in order, then step() is called until it gives no row.
class Statement {
 public:
  Statement() = default;
  static Result<Statement> prepare(sqlite3* db, std::string_view text);
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  Statement(Statement&& other) noexcept;
  Statement& operator=(Statement&& other) noexcept;
  ~Statement() { sqlite3_finalize(statement_); }

  Statement& bind(std::int64_t value);
  /// The text must live until the statement has been stepped.
  Statement& bind(std::string_view value);

  /// Whether there is a row. After the last row, and after a failure, the statement can be bound
  /// and run again.
  Result<bool> step();
  /// Runs a statement that gives no rows, or whose rows do not matter.
  Status run();
  void reset();

  [[nodiscard]] std::int64_t integer(int column) const {
    return sqlite3_column_int64(statement_, column);
  }
  /// Valid until the next step.
  [[nodiscard]] std::string_view text(int column) const;

 private:
  sqlite3* db_ = nullptr;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0;
};

/// A connection to a database file.
class Connection {
 public:
  enum class Mode { kRead, kWrite };

  Connection() = default;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  Connection(Connection&& other) noexcept;
  Connection& operator=(Connection&& other) noexcept;
  ~Connection() { sqlite3_close_v2(db_); }

  /// With kWrite the file is made if it is absent, readable by nobody else.
  static Result<Connection> open(const std::filesystem::path& path, Mode mode);

  /// Runs statements that give no rows.
  Status run(const std::string& text);
  /// The integer in the first column of the first row; 0 if there is none or it is NULL.
  Result<std::int64_t> integer(std::string_view query) const;
  /// The text in the first column of the first row.
  Result<std::string> text(std::string_view query) const;
  [[nodiscard]] sqlite3* get() const { return db_; }

 private:
  sqlite3* db_ = nullptr;
};

}  // namespace quad::store
