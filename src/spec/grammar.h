// spec/grammar.h
//
// A small language for "what may stand here", and the check of a Node against it. The rules are
// plain immutable values built once; a check reports every fault it finds, each with its key path,
// its place, what is allowed, and the nearest spelling. Pure, any thread; O(size of the node ×
// alternatives).
//
// Two of Python's habits are kept because verdicts depend on them: 2.0 counts as an integer, true
// does not.

#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "spec/diagnostic.h"
#include "spec/node.h"

namespace quad::spec {

struct Rule;
using RuleRef = std::shared_ptr<const Rule>;

struct Field {
  std::string_view name;
  RuleRef rule;
};

struct Rule {
  enum class Kind { kAny, kNull, kBool, kInteger, kNumber, kText, kList, kMap, kEither };

  Kind kind = Kind::kAny;
  bool secret = false;  ///< the value is never shown, whatever is wrong with it

  // kText
  std::vector<std::string_view> choices;
  bool ignore_case = false;
  bool (*matches)(std::string_view) = nullptr;
  std::string_view shape;  ///< what `matches` wants, in words: "a size such as 100GB"
  std::size_t min_length = 0;
  std::size_t max_length = std::string::npos;  ///< in characters

  // kInteger, kNumber
  std::optional<double> least;
  std::optional<double> above;  ///< more than this
  std::optional<double> most;

  // kList and kMap
  std::size_t min_size = 0;
  std::size_t max_size = std::string::npos;
  bool unique = false;
  RuleRef item;  ///< of a list; of a map, for the keys that `fields` does not name (null: there are
                 ///< none)

  // kMap
  std::string_view name;  ///< "a task", "resources": what to call it in a message
  std::vector<Field> fields;
  std::vector<std::string_view> required;
  std::vector<std::string_view> forbidden;
  bool (*key_matches)(std::string_view) = nullptr;  ///< for keys that `item` covers
  std::string_view key_shape;

  // kEither
  std::vector<RuleRef> alternatives;
};

// The words of the language.
RuleRef any();
RuleRef null();
RuleRef boolean();
RuleRef text();
RuleRef text_matching(bool (*matches)(std::string_view), std::string_view shape);
RuleRef choice(std::vector<std::string_view> choices);
RuleRef choice_ignoring_case(std::vector<std::string_view> choices);
RuleRef integer(std::optional<double> least = {}, std::optional<double> most = {});
RuleRef number(std::optional<double> least = {});
RuleRef number_above(double bound);
RuleRef list_of(RuleRef item, std::size_t min_size = 0, std::size_t max_size = std::string::npos);
RuleRef either(std::vector<RuleRef> alternatives);
/// A mapping of exactly these keys, each optional.
Rule closed_map(std::string_view name, std::vector<Field> fields);
/// A mapping of these keys and any others.
Rule open_map(std::string_view name, std::vector<Field> fields);
/// A mapping from names to values of one kind.
Rule map_of(RuleRef item);
RuleRef make(Rule rule);

/// Whether the value could be what the rule asks for: of its kind, or of one of its alternatives'.
bool right_kind(const Node& node, const Rule& rule);

/// What a rule allows, in words: "an integer of at least 0", "one of low, medium and high".
std::string describe(const Rule& rule);

/// What a null member of the outermost mapping means.
enum class Nulls {
  kChecked,          ///< a value like any other
  kAbsent,           ///< the same as leaving the key out, if the key is known
  kAbsentIfUnknown,  ///< the same, even for an unknown key
};

/// Checks `node` and reports what is wrong under `path`. True if nothing was wrong.
bool check(const Node& node, const Rule& rule, const std::string& path, Issues& issues,
           Nulls nulls = Nulls::kChecked);

/// "resources" + "cpus" → "resources.cpus"; "" + "name" → "name".
std::string join_path(const std::string& path, std::string_view key);

}  // namespace quad::spec
