#include "base/json.h"

#include <fmt/format.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/src.hpp>  // Boost.JSON itself, compiled here once

namespace quad {

Result<json::value> parse_json(std::string_view text, std::size_t max_depth) {
  json::parse_options options;
  options.max_depth = max_depth;
  options.allow_invalid_utf8 = true;
  json::stream_parser parser({}, options);
  boost::system::error_code failure;
  const std::size_t used = parser.write_some(text, failure);
  if (!failure) {
    parser.finish(failure);
  }
  if (!failure && text.find_first_not_of(" \t\r\n", used) != std::string_view::npos) {
    failure = json::error::extra_data;
  }
  if (failure) {
    return error(ErrorCode::kInvalid,
                 fmt::format("This is not JSON: {} at byte {}", failure.message(), used));
  }
  return parser.release();
}

Result<json::object> parse_json_object(std::string_view text, std::size_t max_depth) {
  QUAD_ASSIGN(json::value value, parse_json(text, max_depth));
  if (!value.is_object()) {
    return error(ErrorCode::kInvalid, "A JSON object is expected here");
  }
  return std::move(value.get_object());
}

std::string to_text(const json::value& value) {
  return json::serialize(value);
}

namespace {

void write_pretty(const json::value& value, std::size_t indent, std::string& out) {
  const auto pad = [&](std::size_t depth) { out.append(depth * 2, ' '); };
  if (const auto* object = value.if_object(); object != nullptr && !object->empty()) {
    out += "{\n";
    bool first = true;
    for (const auto& member : *object) {
      out += first ? "" : ",\n";
      first = false;
      pad(indent + 1);
      out += json::serialize(json::string(member.key()));
      out += ": ";
      write_pretty(member.value(), indent + 1, out);
    }
    out += '\n';
    pad(indent);
    out += '}';
  } else if (const auto* array = value.if_array(); array != nullptr && !array->empty()) {
    out += "[\n";
    bool first = true;
    for (const auto& item : *array) {
      out += first ? "" : ",\n";
      first = false;
      pad(indent + 1);
      write_pretty(item, indent + 1, out);
    }
    out += '\n';
    pad(indent);
    out += ']';
  } else {
    out += json::serialize(value);
  }
}

}  // namespace

std::string to_pretty_text(const json::value& value) {
  std::string out;
  write_pretty(value, 0, out);
  out += '\n';
  return out;
}

std::string_view get_string(const json::object& object, std::string_view key,
                            std::string_view fallback) {
  const auto* value = object.if_contains(key);
  const auto* text = value == nullptr ? nullptr : value->if_string();
  return text == nullptr ? fallback : std::string_view(text->data(), text->size());
}

std::int64_t get_int(const json::object& object, std::string_view key, std::int64_t fallback) {
  const auto* value = object.if_contains(key);
  if (value == nullptr) {
    return fallback;
  }
  boost::system::error_code failure;
  const auto number = value->to_number<std::int64_t>(failure);
  return failure ? fallback : number;
}

double get_double(const json::object& object, std::string_view key, double fallback) {
  const auto* value = object.if_contains(key);
  if (value == nullptr) {
    return fallback;
  }
  boost::system::error_code failure;
  const auto number = value->to_number<double>(failure);
  return failure ? fallback : number;
}

bool get_bool(const json::object& object, std::string_view key, bool fallback) {
  const auto* value = object.if_contains(key);
  const auto* flag = value == nullptr ? nullptr : value->if_bool();
  return flag == nullptr ? fallback : *flag;
}

const json::object* get_object(const json::object& object, std::string_view key) {
  const auto* value = object.if_contains(key);
  return value == nullptr ? nullptr : value->if_object();
}

const json::array* get_array(const json::object& object, std::string_view key) {
  const auto* value = object.if_contains(key);
  return value == nullptr ? nullptr : value->if_array();
}

}  // namespace quad
