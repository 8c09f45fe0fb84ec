// server/input.h
//
// What a client sends, read strictly: a value that is not what is expected, or a name that is not
// known, is an error that names it, never a default. The first fault is kept; read everything, then
// ask finish(). Pure; any thread.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/time.h"
#include "net/message.h"

namespace quad::server {

/// For messages: at most 80 bytes of what a client sent, printable().
std::string excerpt(std::string_view text);

/// Code points in valid UTF-8.
std::size_t characters_of(std::string_view text);

struct IntegerRange {
  std::int64_t least = 0;
  std::int64_t most = INT64_MAX;
};

class QueryReader {
 public:
  explicit QueryReader(const net::Request& request) : values_(request.query_values()) {}

  std::optional<std::string> text(std::string_view name);
  std::optional<std::int64_t> integer(std::string_view name, IntegerRange range);
  /// 1, true or nothing; 0 or false.
  bool flag(std::string_view name);
  /// RFC 3339, or how long ago: "90s", "10m", "2h", "1d".
  std::optional<WallTime> time(std::string_view name, WallTime now);
  void refuse(std::string_view name, std::string_view value, std::string_view allowed);
  /// The first fault: a value, a parameter that was never asked for, or one given twice.
  Status finish();

 private:
  std::vector<std::pair<std::string, std::string>> values_;
  std::vector<std::string_view> known_;
  std::optional<Error> fault_;
};

class ObjectReader {
 public:
  /// `where` is put before the names of members in errors: "overrides.".
  explicit ObjectReader(const json::object& object, std::string where = {})
      : object_(object), where_(std::move(where)) {}

  // Members that are absent or null are nothing.
  std::optional<std::string> text(std::string_view name);
  std::optional<std::int64_t> integer(std::string_view name, IntegerRange range);
  std::optional<bool> flag(std::string_view name);
  const json::object* object(std::string_view name);
  const json::array* array(std::string_view name);
  /// [["NAME", "value"], …]
  std::vector<std::pair<std::string, std::string>> pairs(std::string_view name);
  /// ["text", …]
  std::vector<std::string> texts(std::string_view name);
  void refuse(std::string_view name, std::string_view allowed);
  void fail(Error fault);
  /// The first fault: a value, or a member that was never asked for.
  Status finish();

 private:
  const json::value* find(std::string_view name);

  const json::object& object_;
  std::string where_;
  std::vector<std::string_view> known_;
  std::optional<Error> fault_;
};

}  // namespace quad::server
