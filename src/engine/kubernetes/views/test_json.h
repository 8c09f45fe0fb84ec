// engine/kubernetes/views/test_json.h
//
// For tests: JSON from a text that must be right, and a look into nested JSON by a path.

#pragma once

#include <gtest/gtest.h>

#include <string_view>

#include "base/json.h"

namespace quad::kubernetes {

inline json::object object_of(std::string_view text) {
  Result<json::object> parsed = parse_json_object(text);
  EXPECT_TRUE(parsed.ok()) << parsed.error().message << "\n" << text;
  return parsed.ok() ? *parsed : json::object();
}

/// What lies at a JSON pointer such as "/spec/containers/0/name"; null if nothing does.
inline json::value at(const json::value& value, std::string_view pointer) {
  boost::system::error_code failure;
  const json::value* found = value.find_pointer(pointer, failure);
  return found == nullptr ? json::value() : *found;
}

}  // namespace quad::kubernetes
