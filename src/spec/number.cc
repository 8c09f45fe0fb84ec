#include "spec/number.h"
#include "spec/letters.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <vector>

namespace quad::spec {

namespace {

std::string_view strip(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\n\r\f\v";
  const std::size_t start = text.find_first_not_of(kBlanks);
  if (start == std::string_view::npos) {
    return {};
  }
  return text.substr(start, text.find_last_not_of(kBlanks) - start + 1);
}

/// Digits with single underscores between them, appended to `out` without the underscores. False if
/// there are none.
bool take_digits(std::string_view text, std::size_t& at, std::string& out) {
  if (at >= text.size() || !is_digit(text[at])) {
    return false;
  }
  while (at < text.size()) {
    if (is_digit(text[at])) {
      out += text[at++];
    } else if (text[at] == '_' && at + 1 < text.size() && is_digit(text[at + 1])) {
      ++at;
    } else {
      break;
    }
  }
  return true;
}

}  // namespace

bool is_whole(double value) {
  constexpr double kExact = 9e15;
  return value >= -kExact && value <= kExact && value == std::floor(value);
}

std::string python_float_text(double value) {
  if (std::isnan(value)) {
    return "nan";
  }
  if (std::isinf(value)) {
    return value < 0 ? "-inf" : "inf";
  }
  std::array<char, 64> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                 std::chars_format::scientific);
  const std::string_view text(buffer.data(), static_cast<std::size_t>(end.ptr - buffer.data()));
  const std::size_t e = text.find('e');
  std::string digits;
  std::string out = text[0] == '-' ? "-" : "";
  for (const char c : text.substr(0, e)) {
    if (is_digit(c)) {
      digits += c;
    }
  }
  int exponent = 0;
  const std::string_view written = text.substr(e + (text[e + 1] == '+' ? 2 : 1));
  std::from_chars(written.data(), written.data() + written.size(), exponent);
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (count > 1) {
      out.append(".").append(digits, 1);
    }
    const int size = std::abs(exponent);
    out.append(exponent < 0 ? "e-" : "e+").append(size < 10 ? "0" : "");
    return out + std::to_string(size);
  }
  if (exponent < 0) {
    return out + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  }
  if (count <= exponent + 1) {
    return out + digits +
           std::string(static_cast<std::size_t>(exponent) + 1 - static_cast<std::size_t>(count),
                       '0') +
           ".0";
  }
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

std::optional<double> python_float(std::string_view text) {
  text = strip(text);
  double sign = 1;
  std::size_t at = 0;
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) {
    sign = text[0] == '-' ? -1 : 1;
    at = 1;
  }
  const std::string word = to_lower(text.substr(at));
  if (word == "inf" || word == "infinity") {
    return sign * std::numeric_limits<double>::infinity();
  }
  if (word == "nan") {
    return std::numeric_limits<double>::quiet_NaN();
  }
  std::string plain;
  bool digits = take_digits(text, at, plain);
  if (at < text.size() && text[at] == '.') {
    ++at;
    plain += digits ? "." : "0.";
    std::string fraction;
    const bool more = take_digits(text, at, fraction);
    plain += more ? fraction : "0";
    digits = digits || more;
  }
  if (!digits) {
    return std::nullopt;
  }
  bool small = false;
  if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
    ++at;
    plain += 'e';
    if (at < text.size() && (text[at] == '+' || text[at] == '-')) {
      small = text[at] == '-';
      plain += small ? "-" : "";
      ++at;
    }
    if (!take_digits(text, at, plain)) {
      return std::nullopt;
    }
  }
  if (at != text.size()) {
    return std::nullopt;
  }
  double value = 0;
  const auto end = std::from_chars(plain.data(), plain.data() + plain.size(), value);
  if (end.ec == std::errc::result_out_of_range) {
    value = small ? 0 : std::numeric_limits<double>::infinity();
  }
  return sign * value;
}

std::optional<std::int64_t> python_int(std::string_view text) {
  text = strip(text);
  std::size_t at = 0;
  std::string plain;
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) {
    plain = text[0] == '-' ? "-" : "";
    at = 1;
  }
  std::int64_t value = 0;
  if (!take_digits(text, at, plain) || at != text.size() ||
      std::from_chars(plain.data(), plain.data() + plain.size(), value).ec != std::errc()) {
    return std::nullopt;
  }
  return value;
}

namespace {

constexpr std::uint32_t kLimb = 1'000'000'000;

void scale(std::vector<std::uint32_t>& limbs, std::uint32_t factor, std::uint32_t addend) {
  std::uint64_t carry = addend;
  for (std::uint32_t& limb : limbs) {
    carry += static_cast<std::uint64_t>(limb) * factor;
    limb = static_cast<std::uint32_t>(carry % kLimb);
    carry /= kLimb;
  }
  while (carry != 0) {
    limbs.push_back(static_cast<std::uint32_t>(carry % kLimb));
    carry /= kLimb;
  }
}

std::string limbs_text(const std::vector<std::uint32_t>& limbs) {
  std::string out;
  for (auto limb = limbs.rbegin(); limb != limbs.rend(); ++limb) {
    const std::string part = std::to_string(*limb);
    out += out.empty() ? part : std::string(9 - part.size(), '0') + part;
  }
  const std::size_t first = out.find_first_not_of('0');
  return first == std::string::npos ? "0" : out.substr(first);
}

std::vector<std::uint32_t> to_limbs(std::string_view digits, unsigned base) {
  std::vector<std::uint32_t> limbs;
  for (const char c : digits) {
    const unsigned digit = is_digit(c) ? static_cast<unsigned>(c - '0')
                           : c >= 'a'  ? static_cast<unsigned>(c - 'a') + 10U
                                       : static_cast<unsigned>(c - 'A') + 10U;
    scale(limbs, base, digit);
  }
  return limbs;
}

}  // namespace

std::string to_decimal(std::string_view digits, unsigned base) {
  return limbs_text(to_limbs(digits, base));
}

std::string multiply_add(std::string_view decimal, unsigned factor, unsigned addend) {
  std::vector<std::uint32_t> limbs = to_limbs(decimal, 10);
  scale(limbs, factor, addend);
  return limbs_text(limbs);
}

namespace {

struct Unit {
  std::string_view name;
  int power;  ///< of 1024, above bytes
};
constexpr std::array<Unit, 10> kSizeUnits = {{{"kb", 1},
                                              {"ki", 1},
                                              {"mb", 2},
                                              {"mi", 2},
                                              {"gb", 3},
                                              {"gi", 3},
                                              {"tb", 4},
                                              {"ti", 4},
                                              {"pb", 5},
                                              {"pi", 5}}};

/// The text behind its leading digits; empty optional if it does not begin with one.
std::optional<std::string_view> unit_after_digits(std::string_view text) {
  const auto first = std::find_if_not(text.begin(), text.end(), is_digit);
  if (first == text.begin()) {
    return std::nullopt;
  }
  return text.substr(static_cast<std::size_t>(first - text.begin()));
}

bool is_time_text(std::string_view text, std::string_view units) {
  const auto unit = unit_after_digits(text);
  return unit && (unit->empty() ||
                  (unit->size() == 1 && units.find(to_lower(*unit)) != std::string_view::npos));
}

}  // namespace

bool is_size_text(std::string_view text) {
  const auto unit = unit_after_digits(text);
  if (!unit) {
    return false;
  }
  const std::string name = to_lower(*unit);
  // "kB" is none of the three ways of writing that SkyPilot takes.
  const bool mixed = unit->size() == 2 && (*unit)[0] == name[0] && (*unit)[1] != name[1];
  return unit->empty() || (!mixed && std::any_of(kSizeUnits.begin(), kSizeUnits.end(),
                                                 [&](const Unit& u) { return u.name == name; }));
}

bool is_minutes_text(std::string_view text) {
  return is_time_text(text, "mhdw");
}

bool is_seconds_text(std::string_view text) {
  return is_time_text(text, "smhdw");
}

std::optional<Size> parse_memory(std::string_view text) {
  Size size;
  if (text.ends_with('+')) {
    size.at_least = true;
    text.remove_suffix(1);
  }
  if (text.ends_with('x')) {
    if (size.at_least) {
      return std::nullopt;
    }
    size.per_cpu = true;
    text.remove_suffix(1);
  }
  const std::string suffix = std::string(size.at_least ? "+" : "") + (size.per_cpu ? "x" : "");
  if (const auto plain = python_float(text)) {
    size.gigabytes = *plain;
    size.text = std::string(text) + suffix;
    return size;
  }
  const std::string word = to_lower(text);
  for (const Unit& unit : kSizeUnits) {
    if (!word.ends_with(unit.name)) {
      continue;
    }
    if (const auto value = python_float(std::string_view(word).substr(0, word.size() - 2))) {
      size.gigabytes = std::ldexp(*value, 10 * (unit.power - 3));
      size.text = python_float_text(size.gigabytes) + suffix;
      return size;
    }
  }
  return std::nullopt;
}

std::optional<std::int64_t> parse_disk_gigabytes(std::string_view text) {
  if (const auto plain = python_int(text)) {
    return plain;
  }
  const std::string word = to_lower(text);
  for (const Unit& unit : kSizeUnits) {
    if (!word.ends_with(unit.name)) {
      continue;
    }
    const auto value = python_int(std::string_view(word).substr(0, word.size() - 2));
    if (!value || *value < 0) {
      continue;
    }
    const int shift = 10 * std::abs(unit.power - 3);
    if (unit.power >= 3) {
      const std::int64_t most = std::numeric_limits<std::int64_t>::max() >> shift;
      return *value > most ? std::nullopt : std::optional(*value * (1LL << shift));
    }
    if (*value % (1LL << shift) != 0) {
      return std::nullopt;
    }
    return *value / (1LL << shift);
  }
  return std::nullopt;
}

namespace {

/// A whole number of units, worked out in the smallest of them.
std::optional<std::int64_t> scaled(std::string_view digits, std::int64_t factor) {
  const auto value = python_int(digits);
  if (!value || *value < 0 || *value > std::numeric_limits<std::int64_t>::max() / factor) {
    return std::nullopt;
  }
  return *value * factor;
}

}  // namespace

std::optional<std::int64_t> parse_minutes(std::string_view text) {
  if (!is_minutes_text(text)) {
    return std::nullopt;
  }
  const std::string_view digits = is_digit(text.back()) ? text : text.substr(0, text.size() - 1);
  switch (is_digit(text.back()) ? 'm' : to_lower(text).back()) {
    case 'h':
      return scaled(digits, 60);
    case 'd':
      return scaled(digits, 24 * 60);
    case 'w':
      return scaled(digits, 7 * 24 * 60);
    default:
      return scaled(digits, 1);
  }
}

std::optional<Millis> parse_duration(std::string_view text) {
  if (!is_seconds_text(text) || is_digit(text.back())) {
    return std::nullopt;
  }
  std::int64_t factor = 1000;
  switch (to_lower(text).back()) {
    case 'm':
      factor *= 60;
      break;
    case 'h':
      factor *= 3600;
      break;
    case 'd':
      factor *= 86400;
      break;
    case 'w':
      factor *= 604800;
      break;
    default:
      break;
  }
  const auto millis = scaled(text.substr(0, text.size() - 1), factor);
  constexpr std::int64_t kCentury = 100LL * 366 * 86400 * 1000;
  if (!millis || *millis > kCentury) {
    return std::nullopt;
  }
  return Millis(*millis);
}

}  // namespace quad::spec
