#include "server/input.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"

namespace quad::server {

namespace {

Error unknown(std::string_view what, std::string_view where, std::string_view name,
              const std::vector<std::string_view>& known) {
  const auto near = nearest(name, known);
  std::string hint = near            ? fmt::format("; did you mean '{}'?", *near)
                     : known.empty() ? std::string("; there are none here")
                                     : fmt::format("; there are {}", join_words(known));
  return error(ErrorCode::kInvalid, fmt::format("There is no {} '{}'{}", what, excerpt(name), hint),
               fmt::format("{}{}", where, excerpt(name)));
}

std::string range_text(IntegerRange range) {
  return range.most == INT64_MAX
             ? fmt::format("a whole number from {}", range.least)
             : fmt::format("a whole number from {} to {}", range.least, range.most);
}

}  // namespace

std::string excerpt(std::string_view text) {
  constexpr std::size_t kMost = 80;
  std::string out = printable(text.substr(0, kMost + 4));
  if (out.size() > kMost) {
    std::size_t end = kMost;
    while ((static_cast<unsigned char>(out[end]) & 0xC0U) == 0x80U) {
      --end;  // not in the middle of a character
    }
    out.replace(end, std::string::npos, "…");
  }
  return out;
}

std::size_t characters_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char byte) {
    return (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U;
  }));
}

std::optional<std::string> QueryReader::text(std::string_view name) {
  known_.push_back(name);
  std::optional<std::string> found;
  for (const auto& [key, value] : values_) {
    if (key != name) {
      continue;
    }
    if (found && !fault_) {
      fault_ = error(ErrorCode::kInvalid, fmt::format("'{}' is given more than once", name),
                     std::string(name));
    }
    found = value;
  }
  return found;
}

std::optional<std::int64_t> QueryReader::integer(std::string_view name, IntegerRange range) {
  const auto given = text(name);
  if (!given) {
    return std::nullopt;
  }
  const auto value = parse_number(*given);
  if (!value || *value < range.least || *value > range.most) {
    refuse(name, *given, range_text(range));
    return std::nullopt;
  }
  return value;
}

bool QueryReader::flag(std::string_view name) {
  const auto given = text(name);
  if (!given || *given == "0" || *given == "false") {
    return false;
  }
  if (!given->empty() && *given != "1" && *given != "true") {
    refuse(name, *given, "true (1) or false (0)");
  }
  return true;
}

std::optional<WallTime> QueryReader::time(std::string_view name, WallTime now) {
  const auto given = text(name);
  if (!given) {
    return std::nullopt;
  }
  if (const auto instant = parse_rfc3339(*given); instant.ok()) {
    return *instant;
  }
  constexpr std::string_view kUnits = "smhd";
  constexpr std::int64_t kMillis[] = {1'000, 60'000, 3'600'000, 86'400'000};
  const std::size_t unit = given->empty() ? std::string_view::npos : kUnits.find(given->back());
  const auto count = unit == std::string_view::npos
                         ? std::nullopt
                         : parse_number(std::string_view(*given).substr(0, given->size() - 1));
  if (!count || *count < 0 || *count > 1'000'000'000) {
    refuse(name, *given, "a time such as 2026-11-23T10:00:00Z, or how long ago, such as 10m");
    return std::nullopt;
  }
  return WallTime{now.millis - *count * kMillis[unit]};
}

void QueryReader::refuse(std::string_view name, std::string_view value, std::string_view allowed) {
  if (!fault_) {
    fault_ = error(ErrorCode::kInvalid,
                   fmt::format("{} is '{}' and must be {}", name, excerpt(value), allowed),
                   std::string(name));
  }
}

Status QueryReader::finish() {
  if (fault_) {
    return *fault_;
  }
  for (const auto& [key, value] : values_) {
    if (std::find(known_.begin(), known_.end(), key) == known_.end()) {
      return unknown("query parameter", "", key, known_);
    }
  }
  return {};
}

const json::value* ObjectReader::find(std::string_view name) {
  known_.push_back(name);
  const json::value* value = object_.if_contains(name);
  return value == nullptr || value->is_null() ? nullptr : value;
}

std::optional<std::string> ObjectReader::text(std::string_view name) {
  const json::value* value = find(name);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_string()) {
    refuse(name, "a text");
    return std::nullopt;
  }
  return std::string(value->get_string());
}

std::optional<std::int64_t> ObjectReader::integer(std::string_view name, IntegerRange range) {
  const json::value* value = find(name);
  if (value == nullptr) {
    return std::nullopt;
  }
  std::optional<std::int64_t> number;
  if (value->is_int64()) {
    number = value->get_int64();
  } else if (value->is_double() &&
             value->get_double() == static_cast<double>(static_cast<std::int64_t>(
                                        std::clamp(value->get_double(), -1e15, 1e15)))) {
    number = static_cast<std::int64_t>(value->get_double());  // 3.0 is a whole number in JSON
  }
  if (!number || *number < range.least || *number > range.most) {
    refuse(name, range_text(range));
    return std::nullopt;
  }
  return number;
}

std::optional<bool> ObjectReader::flag(std::string_view name) {
  const json::value* value = find(name);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_bool()) {
    refuse(name, "true or false");
    return std::nullopt;
  }
  return value->get_bool();
}

const json::object* ObjectReader::object(std::string_view name) {
  const json::value* value = find(name);
  if (value != nullptr && !value->is_object()) {
    refuse(name, "an object");
  }
  return value == nullptr ? nullptr : value->if_object();
}

const json::array* ObjectReader::array(std::string_view name) {
  const json::value* value = find(name);
  if (value != nullptr && !value->is_array()) {
    refuse(name, "an array");
  }
  return value == nullptr ? nullptr : value->if_array();
}

std::vector<std::pair<std::string, std::string>> ObjectReader::pairs(std::string_view name) {
  std::vector<std::pair<std::string, std::string>> all;
  const json::array* given = array(name);
  for (std::size_t i = 0; given != nullptr && i < given->size(); ++i) {
    const json::array* pair = (*given)[i].if_array();
    if (pair == nullptr || pair->size() != 2 || !(*pair)[0].is_string() ||
        !(*pair)[1].is_string()) {
      refuse(name, "an array of [NAME, value] pairs of texts");
      break;
    }
    all.emplace_back(std::string((*pair)[0].get_string()), std::string((*pair)[1].get_string()));
  }
  return all;
}

std::vector<std::string> ObjectReader::texts(std::string_view name) {
  std::vector<std::string> all;
  const json::array* given = array(name);
  for (std::size_t i = 0; given != nullptr && i < given->size(); ++i) {
    if (!(*given)[i].is_string()) {
      refuse(name, "an array of texts");
      break;
    }
    all.emplace_back((*given)[i].get_string());
  }
  return all;
}

void ObjectReader::refuse(std::string_view name, std::string_view allowed) {
  fail(error(ErrorCode::kInvalid, fmt::format("'{}{}' must be {}", where_, name, allowed),
             fmt::format("{}{}", where_, name)));
}

void ObjectReader::fail(Error fault) {
  if (!fault_) {
    fault_ = std::move(fault);
  }
}

Status ObjectReader::finish() {
  if (fault_) {
    return *fault_;
  }
  for (const auto& member : object_) {
    if (std::find(known_.begin(), known_.end(), std::string_view(member.key())) == known_.end()) {
      return unknown("member", where_, member.key(), known_);
    }
  }
  return {};
}

}  // namespace quad::server
