#include "config/words.h"

#include <algorithm>
#include <cmath>

#include "base/json.h"
#include "base/text.h"
#include "spec/letters.h"
#include "spec/number.h"

namespace quad::config {

namespace {

using spec::is_alphanumeric;

bool is_printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) > ' ' && static_cast<unsigned char>(c) != 0x7F;
  });
}

bool is_lower_alphanumeric(char c) {
  return spec::is_digit(c) || (c >= 'a' && c <= 'z');
}

/// Letters, digits and `others` within, a letter or digit at both ends.
bool is_word(std::string_view text, std::string_view others, std::size_t most) {
  return !text.empty() && text.size() <= most && is_alphanumeric(text.front()) &&
         is_alphanumeric(text.back()) && std::all_of(text.begin(), text.end(), [&](char c) {
           return is_alphanumeric(c) || others.find(c) != std::string_view::npos;
         });
}

constexpr std::size_t kLongestLabel = 63;
constexpr std::size_t kLongestName = 253;

}  // namespace

bool is_path(std::string_view text) {
  return !text.empty() && text.size() < 4096 && text.front() != '~' && !text.starts_with("-----") &&
         std::none_of(text.begin(), text.end(),
                      [](char c) { return static_cast<unsigned char>(c) < ' '; });
}

bool is_absolute_folder(std::string_view text) {
  if (!is_path(text) || text.front() != '/') {
    return false;
  }
  bool named = false;
  for (const std::string_view part : split(text, '/')) {
    if (part == "..") {
      return false;
    }
    named = named || (!part.empty() && part != ".");
  }
  return named;
}

bool is_host(std::string_view text) {
  const auto all = [&](std::string_view others) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
      return is_alphanumeric(c) || others.find(c) != std::string_view::npos;
    });
  };
  const bool v6 = std::count(text.begin(), text.end(), ':') > 1;
  return v6 ? all(":.") : all("-.");
}

bool is_loopback(std::string_view host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

bool is_web_address(std::string_view text) {
  const bool tls = text.starts_with("https://");
  if (!tls && !text.starts_with("http://")) {
    return false;
  }
  text.remove_prefix(tls ? 8 : 7);
  return !text.empty() && is_printable(text) &&
         text.find_first_of("@?#\\\"'<>") == std::string_view::npos && text.front() != '/' &&
         text.front() != ':';
}

bool is_duration(std::string_view text) {
  return spec::parse_duration(text).has_value();
}

bool is_size(std::string_view text) {
  const auto size = spec::parse_memory(text);
  return size && !size->at_least && !size->per_cpu && std::isfinite(size->gigabytes) &&
         size->gigabytes > 0;
}

bool is_amount(std::string_view text) {
  const auto value = spec::python_float(text);
  return value && std::isfinite(*value) && *value > 0;
}

bool is_gpus(std::string_view text) {
  const std::size_t colon = text.find(':');
  if (trim(text.substr(0, colon)).empty()) {
    return false;
  }
  if (colon == std::string_view::npos) {
    return true;
  }
  const auto count = spec::python_int(text.substr(colon + 1));
  return count && *count >= 1;
}

bool is_image(std::string_view text) {
  return !text.empty() && is_printable(text) && is_alphanumeric(text.front()) &&
         text.find("://") == std::string_view::npos && !text.starts_with("docker:");
}

bool is_account(std::string_view text) {
  return !text.empty() && text.size() <= kLongestName && is_printable(text) &&
         text.find_first_of("/:") == std::string_view::npos;
}

std::optional<std::pair<std::uint32_t, std::uint32_t>> uid_range_of(std::string_view text) {
  constexpr std::uint32_t kFirstOfPeople = 1000;
  constexpr std::uint32_t kLast = 4'294'967'294;
  const std::size_t dash = text.find('-');
  if (dash == std::string_view::npos) {
    return std::nullopt;
  }
  const auto first = parse_number<std::uint32_t>(text.substr(0, dash));
  const auto last = parse_number<std::uint32_t>(text.substr(dash + 1));
  if (!first || !last || *first < kFirstOfPeople || *last < *first || *last > kLast) {
    return std::nullopt;
  }
  return std::pair(*first, *last);
}

bool is_uid_range(std::string_view text) {
  return uid_range_of(text).has_value();
}

bool is_engine_name(std::string_view text) {
  return !text.empty() && text.size() <= kLongestName && is_printable(text) &&
         text.find_first_of("/*") == std::string_view::npos;
}

bool is_object_name(std::string_view text) {
  return !text.empty() && text.size() <= kLongestName && is_lower_alphanumeric(text.front()) &&
         is_lower_alphanumeric(text.back()) && std::all_of(text.begin(), text.end(), [](char c) {
           return is_lower_alphanumeric(c) || c == '-' || c == '.';
         });
}

bool is_label_name(std::string_view text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) {
    return is_word(text, "-_.", kLongestLabel);
  }
  return is_object_name(text.substr(0, slash)) &&
         is_word(text.substr(slash + 1), "-_.", kLongestLabel);
}

bool is_label_value(std::string_view text) {
  return text.empty() || is_word(text, "-_.", kLongestLabel);
}

bool is_network_list(std::string_view text) {
  if (trim(text).starts_with('[')) {
    const auto list = parse_json(text);
    return list.ok() && list->is_array() &&
           std::all_of(list->as_array().begin(), list->as_array().end(),
                       [](const json::value& one) {
                         return one.is_object() && !get_string(one.get_object(), "name").empty();
                       });
  }
  const auto all = split(text, ',');
  return std::all_of(all.begin(), all.end(), [](std::string_view one) {
    // [namespace/]name[@interface]
    one = trim(one);
    const std::size_t slash = one.find('/');
    if (slash != std::string_view::npos && !is_object_name(one.substr(0, slash))) {
      return false;
    }
    const std::string_view rest = slash == std::string_view::npos ? one : one.substr(slash + 1);
    const std::size_t at = rest.find('@');
    return is_object_name(rest.substr(0, at)) &&
           (at == std::string_view::npos || is_word(rest.substr(at + 1), "-_.", 15));
  });
}

std::optional<Millis> duration_of(const spec::Node& node) {
  if (node.is_string()) {
    return spec::parse_duration(node.text);
  }
  constexpr double kCentury = 100.0 * 366 * 86400;
  if (!node.is_number() || !(std::abs(node.number) <= kCentury)) {
    return std::nullopt;
  }
  return Millis(std::llround(node.number * 1000));
}

std::optional<std::int64_t> bytes_of(const spec::Node& node) {
  double gigabytes = node.number;
  if (node.is_string()) {
    const auto size = spec::parse_memory(node.text);
    if (!size || size->at_least || size->per_cpu) {
      return std::nullopt;
    }
    gigabytes = size->gigabytes;
  } else if (!node.is_number()) {
    return std::nullopt;
  }
  constexpr double kMost = 1e9;
  if (!(gigabytes >= 0 && gigabytes <= kMost)) {
    return std::nullopt;
  }
  return std::llround(gigabytes * 1e9);
}

std::optional<std::int64_t> milli_of(const spec::Node& node) {
  const auto value = node.is_string()   ? spec::python_float(node.text)
                     : node.is_number() ? std::optional(node.number)
                                        : std::nullopt;
  constexpr double kMost = 1e6;
  if (!value || !(*value >= 0 && *value <= kMost)) {
    return std::nullopt;
  }
  return std::llround(*value * 1000);
}

}  // namespace quad::config
