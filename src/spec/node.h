// spec/node.h
//
// A YAML value with its place in the text: what the YAML reader makes, and what every check below
// works on. Values are those of PyYAML's safe loader, because the same file must mean the same
// here. Pure, any thread; copying copies the whole subtree.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "spec/diagnostic.h"

namespace quad::spec {

struct Entry;

struct Node {
  enum class Kind {
    kNull,
    kBool,
    kInt,
    kFloat,
    kString,
    kSequence,
    kMapping,
    kForeign,  ///< a value that JSON has no word for: a date, bytes, a set
  };

  Kind kind = Kind::kNull;
  Mark mark;
  bool boolean = false;
  bool huge = false;  ///< an integer beyond 64 bits: `text` has its digits, `integer` is 0
  std::int64_t integer = 0;
  double number = 0;  ///< of kFloat; of kInt, its nearest double
  std::string
      text;  ///< kString: the value; kInt: decimal digits; kForeign: as Python's str() shows it
  std::string representation;  ///< kForeign only: as Python's repr() shows it
  std::vector<Node> items;     ///< of a sequence
  std::vector<Entry> entries;  ///< of a mapping, in the file's order, keys unique

  [[nodiscard]] bool is_null() const { return kind == Kind::kNull; }
  [[nodiscard]] bool is_bool() const { return kind == Kind::kBool; }
  [[nodiscard]] bool is_int() const { return kind == Kind::kInt; }
  [[nodiscard]] bool is_number() const { return kind == Kind::kInt || kind == Kind::kFloat; }
  [[nodiscard]] bool is_string() const { return kind == Kind::kString; }
  [[nodiscard]] bool is_sequence() const { return kind == Kind::kSequence; }
  [[nodiscard]] bool is_mapping() const { return kind == Kind::kMapping; }

  static Node null_at(Mark mark);
  static Node make_bool(bool value, Mark mark = {});
  static Node make_int(std::int64_t value, Mark mark = {});
  static Node make_string(std::string value, Mark mark = {});
  static Node make_mapping(Mark mark = {});
  static Node make_sequence(Mark mark = {});

  // Members of a mapping by string key; null (the pointer) if this is no mapping or has no such
  // key.
  [[nodiscard]] const Node* find(std::string_view key) const;
  [[nodiscard]] Node* find(std::string_view key);
  /// As find(), but a member whose value is YAML null counts as absent.
  [[nodiscard]] const Node* find_value(std::string_view key) const;
  /// Replaces or appends a member.
  void set(std::string_view key, Node value);
  void erase(std::string_view key);
  /// set() for each of `members`, whose keys become strings, in time that grows with the sum of
  /// both.
  void set_all(const std::vector<Entry>& members);
};

struct Entry {
  Node key;
  Node value;
};

/// What it costs to repeat the value: its bytes of text, and 64 for each part.
std::size_t weight_of(const Node& node);

/// What Python's str() and repr() make of the value: how SkyPilot turns `A: yes` under envs into
/// "True".
std::string python_str(const Node& node);
std::string python_repr(const Node& node);

/// The value as JSON. Keys become strings as JSON has them (true, null, 1.5); dates and bytes
/// become their text.
json::value to_json(const Node& node);
/// The string that a mapping's key becomes in JSON.
std::string json_key(const Node& key);

/// The value in a message: quoted and cut to a readable length.
std::string shown(const Node& node);
std::string shown(std::string_view text);

}  // namespace quad::spec
