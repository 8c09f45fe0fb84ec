// base/json.h
//
// JSON through Boost.JSON, and the few helpers that every reader of somebody else's JSON needs: a
// missing or mistyped member is an Error or a default, never an exception. Pure, any thread.

#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace quad {

namespace json = boost::json;

/// Parses a whole text of at most `max_depth` levels. kInvalid with the byte offset of the fault.
Result<json::value> parse_json(std::string_view text, std::size_t max_depth = 64);
/// Parses a text that must be an object.
Result<json::object> parse_json_object(std::string_view text, std::size_t max_depth = 64);
/// The compact text of a value. Invalid UTF-8 inside strings is passed through as it is.
std::string to_text(const json::value& value);
/// The text of a value, indented by two spaces, with a newline at its end: for people.
std::string to_pretty_text(const json::value& value);

// A member of an object, or the default if it is absent, null or of another type.
std::string_view get_string(const json::object& object, std::string_view key,
                            std::string_view fallback = {});
std::int64_t get_int(const json::object& object, std::string_view key, std::int64_t fallback = 0);
double get_double(const json::object& object, std::string_view key, double fallback = 0);
bool get_bool(const json::object& object, std::string_view key, bool fallback = false);
/// The member as an object or array; null if it is absent or of another type.
const json::object* get_object(const json::object& object, std::string_view key);
const json::array* get_array(const json::object& object, std::string_view key);

}  // namespace quad
