// spec/yaml_scalar.h
//
// The types of YAML 1.1 scalars, by PyYAML's rules. Pure, any thread.

#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "spec/node.h"

namespace quad::spec {

enum class ScalarType {
  kString,
  kBool,
  kFloat,
  kInt,
  kMerge,
  kNull,
  kTimestamp,
  kValue,  ///< a lone "=", which the safe loader knows no value for
  kBinary,
};

/// The type that a plain (unquoted, untagged) scalar has.
ScalarType resolve_plain(std::string_view text);

/// The value of a scalar of that type; empty if the text is none ("!!int abc", 2024-13-01).
std::optional<Node> construct_scalar(ScalarType type, std::string_view text, Mark mark);

}  // namespace quad::spec
