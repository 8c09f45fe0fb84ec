#include "spec/yaml_scalar.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>

#include <fmt/format.h>

#include "base/text.h"
#include "spec/letters.h"
#include "spec/number.h"

namespace quad::spec {

namespace {

/// Reads through a text from left to right; every take_ moves on only if it fits.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text) {}

  [[nodiscard]] bool done() const { return at_ == text_.size(); }
  [[nodiscard]] char peek(std::size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  bool take(char c) {
    if (peek() != c || done()) {
      return false;
    }
    ++at_;
    return true;
  }
  bool take_any(std::string_view set) {
    if (done() || set.find(peek()) == std::string_view::npos) {
      return false;
    }
    ++at_;
    return true;
  }
  bool take_word(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) {
      return false;
    }
    at_ += word.size();
    return true;
  }
  std::size_t take_all(std::string_view set) {
    const std::size_t start = at_;
    while (take_any(set)) {
    }
    return at_ - start;
  }
  /// Between `least` and `most` decimal digits, as a number; empty (and nothing taken) if there are
  /// fewer.
  std::optional<int> take_number(int least, int most) {
    int value = 0;
    int count = 0;
    while (count < most && is_digit(peek(static_cast<std::size_t>(count)))) {
      value = value * 10 + (peek(static_cast<std::size_t>(count)) - '0');
      ++count;
    }
    if (count < least) {
      return std::nullopt;
    }
    at_ += static_cast<std::size_t>(count);
    return value;
  }

 private:
  std::string_view text_;
  std::size_t at_ = 0;
};

constexpr std::string_view kDigits = "0123456789";
constexpr std::string_view kDigitsAndLine = "0123456789_";

bool one_of(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

/// ":[0-5]?[0-9]", once or more often.
bool take_sixtieths(Cursor& cursor) {
  int parts = 0;
  while (cursor.peek() == ':') {
    const bool two = cursor.peek(1) >= '0' && cursor.peek(1) <= '5' && is_digit(cursor.peek(2));
    if (!two && !is_digit(cursor.peek(1))) {
      return false;
    }
    cursor.take(':');
    cursor.take_number(1, two ? 2 : 1);
    ++parts;
  }
  return parts > 0;
}

bool is_int(std::string_view text) {
  Cursor start(text);
  start.take_any("+-");
  const auto rest_is = [&](std::string_view prefix, std::string_view set) {
    Cursor c = start;
    return c.take_word(prefix) && c.take_all(set) > 0 && c.done();
  };
  if (rest_is("0b", "01_") || rest_is("0", "01234567_") ||
      rest_is("0x", "0123456789abcdefABCDEF_")) {
    return true;
  }
  Cursor c = start;
  if (c.take('0')) {
    return c.done();
  }
  if (!c.take_any("123456789")) {
    return false;
  }
  c.take_all(kDigitsAndLine);
  return c.done() || (take_sixtieths(c) && c.done());
}

bool is_float(std::string_view text) {
  Cursor c(text);
  const bool sign = c.take_any("+-");
  if (c.take('.')) {
    if (one_of(text.substr(sign ? 2 : 1), {"inf", "Inf", "INF"}) ||
        (!sign && one_of(text.substr(1), {"nan", "NaN", "NAN"}))) {
      return true;
    }
    if (sign || !c.take_any(kDigits)) {
      return false;
    }
    c.take_all(kDigitsAndLine);
  } else {
    if (!c.take_any(kDigits)) {
      return false;
    }
    c.take_all(kDigitsAndLine);
    if (c.peek() == ':') {
      return take_sixtieths(c) && c.take('.') && (c.take_all(kDigitsAndLine), c.done());
    }
    if (!c.take('.')) {
      return false;
    }
    c.take_all(kDigitsAndLine);
  }
  if (c.take_any("eE")) {
    return c.take_any("+-") && c.take_all(kDigits) > 0 && c.done();
  }
  return c.done();
}

struct Timestamp {
  int year = 0, month = 0, day = 0;
  bool has_time = false;
  int hour = 0, minute = 0, second = 0, micros = 0;
  bool zoned = false;
  int offset_minutes = 0;
  bool utc = false;
};

std::optional<Timestamp> match_timestamp(std::string_view text) {
  Timestamp t;
  Cursor c(text);
  const auto year = c.take_number(4, 4);
  if (!year || !c.take('-')) {
    return std::nullopt;
  }
  const auto month = c.take_number(1, 2);
  if (!month || !c.take('-')) {
    return std::nullopt;
  }
  const auto day = c.take_number(1, 2);
  if (!day) {
    return std::nullopt;
  }
  t.year = *year;
  t.month = *month;
  t.day = *day;
  if (c.done()) {
    return text.size() == 10 ? std::optional(t) : std::nullopt;
  }
  if (!c.take_any("Tt") && c.take_all(" \t") == 0) {
    return std::nullopt;
  }
  const auto hour = c.take_number(1, 2);
  if (!hour || !c.take(':')) {
    return std::nullopt;
  }
  const auto minute = c.take_number(2, 2);
  if (!minute || !c.take(':')) {
    return std::nullopt;
  }
  const auto second = c.take_number(2, 2);
  if (!second) {
    return std::nullopt;
  }
  t.has_time = true;
  t.hour = *hour;
  t.minute = *minute;
  t.second = *second;
  if (c.take('.')) {
    int scale = 100'000;
    for (; is_digit(c.peek()); scale /= 10) {
      t.micros += (c.peek() - '0') * scale;
      c.take_any(kDigits);
    }
  }
  if (c.done()) {
    return t;
  }
  c.take_all(" \t");
  t.zoned = true;
  if (c.take('Z')) {
    t.utc = true;
    return c.done() ? std::optional(t) : std::nullopt;
  }
  const bool minus = c.peek() == '-';
  if (!c.take_any("+-")) {
    return std::nullopt;
  }
  const auto zone_hour = c.take_number(1, 2);
  if (!zone_hour) {
    return std::nullopt;
  }
  t.offset_minutes = *zone_hour * 60;
  if (c.take(':')) {
    const auto zone_minute = c.take_number(2, 2);
    if (!zone_minute) {
      return std::nullopt;
    }
    t.offset_minutes += *zone_minute;
  }
  t.offset_minutes *= minus ? -1 : 1;
  return c.done() ? std::optional(t) : std::nullopt;
}

std::optional<Node> construct_timestamp(std::string_view text, Mark mark) {
  const auto match = match_timestamp(text);
  if (!match) {
    return std::nullopt;
  }
  const Timestamp& t = *match;
  const std::chrono::year_month_day day{std::chrono::year(t.year),
                                        std::chrono::month(static_cast<unsigned>(t.month)),
                                        std::chrono::day(static_cast<unsigned>(t.day))};
  if (t.year < 1 || !day.ok() || t.hour > 23 || t.minute > 59 || t.second > 59 ||
      t.offset_minutes >= 1440 || t.offset_minutes <= -1440) {
    return std::nullopt;
  }
  Node node;
  node.kind = Node::Kind::kForeign;
  node.mark = mark;
  node.text = fmt::format("{:04}-{:02}-{:02}", t.year, t.month, t.day);
  if (!t.has_time) {
    node.representation = fmt::format("datetime.date({}, {}, {})", t.year, t.month, t.day);
    return node;
  }
  node.text += fmt::format(" {:02}:{:02}:{:02}", t.hour, t.minute, t.second);
  node.representation =
      fmt::format("datetime.datetime({}, {}, {}, {}, {}", t.year, t.month, t.day, t.hour, t.minute);
  if (t.second != 0 || t.micros != 0) {
    node.representation += fmt::format(", {}", t.second);
  }
  if (t.micros != 0) {
    node.text += fmt::format(".{:06}", t.micros);
    node.representation += fmt::format(", {}", t.micros);
  }
  if (t.zoned) {
    const int size = std::abs(t.offset_minutes);
    node.text +=
        fmt::format("{}{:02}:{:02}", t.offset_minutes < 0 ? '-' : '+', size / 60, size % 60);
    if (t.offset_minutes == 0) {
      node.representation += ", tzinfo=datetime.timezone.utc";
    } else {
      const int seconds = t.offset_minutes * 60;
      node.representation +=
          fmt::format(", tzinfo=datetime.timezone(datetime.timedelta({}seconds={}))",
                      seconds < 0 ? "days=-1, " : "", seconds < 0 ? seconds + 86400 : seconds);
    }
  }
  node.representation += ")";
  return node;
}

std::string without_lines(std::string_view text) {
  std::string out(text);
  std::erase(out, '_');
  return out;
}

constexpr std::size_t kMostDigits =
    300;  ///< more than any number in a task needs, and cheap to work out

/// The decimal digits of an unsigned integer in any of the YAML 1.1 notations; empty if it is none.
std::optional<std::string> int_digits(std::string_view value) {
  const auto in_base = [](std::string_view digits, unsigned base) -> std::optional<std::string> {
    const std::string_view allowed = std::string_view("0123456789abcdef").substr(0, base);
    if (digits.empty() || !std::all_of(digits.begin(), digits.end(), [&](char c) {
          return allowed.find(c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c) !=
                 std::string_view::npos;
        })) {
      return std::nullopt;
    }
    return to_decimal(digits, base);
  };
  if (value.size() > kMostDigits) {
    return std::nullopt;
  }
  if (value.starts_with("0b")) {
    return in_base(value.substr(2), 2);
  }
  if (value.starts_with("0x")) {
    return in_base(value.substr(2), 16);
  }
  if (value.size() > 1 && value[0] == '0') {
    return in_base(value, 8);
  }
  std::optional<std::string> total;
  for (const std::string_view part : split(value, ':')) {
    auto digits = in_base(part, 10);
    if (!digits) {
      return std::nullopt;
    }
    if (!total) {
      total = std::move(digits);
      continue;
    }
    const auto sixtieths = python_int(*digits);
    if (!sixtieths || *sixtieths > 1'000'000) {
      return std::nullopt;
    }
    total = multiply_add(*total, 60, static_cast<unsigned>(*sixtieths));
  }
  return total;
}

std::optional<Node> construct_int(std::string_view text, Mark mark) {
  std::string value = without_lines(text);
  bool minus = false;
  if (!value.empty() && (value[0] == '+' || value[0] == '-')) {
    minus = value[0] == '-';
    value.erase(0, 1);
  }
  const auto digits = int_digits(value);
  if (!digits) {
    return std::nullopt;
  }
  Node node;
  node.kind = Node::Kind::kInt;
  node.mark = mark;
  node.text = minus && *digits != "0" ? "-" + *digits : *digits;
  const auto small = python_int(node.text);
  node.huge = !small;
  node.integer = small.value_or(0);
  node.number = python_float(node.text).value_or(0);
  return node;
}

std::optional<Node> construct_float(std::string_view text, Mark mark) {
  std::string value = to_lower(without_lines(text));
  double sign = 1;
  if (!value.empty() && (value[0] == '+' || value[0] == '-')) {
    sign = value[0] == '-' ? -1 : 1;
    value.erase(0, 1);
  }
  Node node;
  node.kind = Node::Kind::kFloat;
  node.mark = mark;
  if (value == ".inf") {
    node.number = sign * std::numeric_limits<double>::infinity();
    return node;
  }
  if (value == ".nan") {
    node.number = std::numeric_limits<double>::quiet_NaN();
    return node;
  }
  double total = 0;
  for (const std::string_view part : split(value, ':')) {
    const auto number = python_float(part);
    if (!number) {
      return std::nullopt;
    }
    total = total * 60 + *number;
  }
  node.number = sign * total;
  return node;
}

std::optional<Node> construct_bool(std::string_view text, Mark mark) {
  const std::string word = to_lower(text);
  if (one_of(word, {"yes", "true", "on"})) {
    return Node::make_bool(true, mark);
  }
  if (one_of(word, {"no", "false", "off"})) {
    return Node::make_bool(false, mark);
  }
  return std::nullopt;
}

std::optional<Node> construct_binary(std::string_view text, Mark mark) {
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  unsigned held = 0;
  int bits = 0;
  std::size_t symbols = 0;
  for (const char c : text) {
    const std::size_t value = kAlphabet.find(c);
    if (value == std::string_view::npos) {
      continue;  // line breaks and padding
    }
    ++symbols;
    held = ((held << 6U) | static_cast<unsigned>(value)) & 0xFFFFFFU;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes += static_cast<char>((held >> static_cast<unsigned>(bits)) & 0xFFU);
    }
  }
  if (symbols % 4 == 1 || (symbols % 4 != 0 && text.find('=') == std::string_view::npos)) {
    return std::nullopt;
  }
  std::string shown_bytes = "b'";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\'' || c == '\\') {
      shown_bytes += '\\';
      shown_bytes += c;
    } else if (byte >= 0x20 && byte < 0x7F) {
      shown_bytes += c;
    } else if (c == '\n' || c == '\r' || c == '\t') {
      shown_bytes += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else {
      shown_bytes += fmt::format("\\x{:02x}", byte);
    }
  }
  Node node;
  node.kind = Node::Kind::kForeign;
  node.mark = mark;
  node.text = node.representation = shown_bytes + "'";
  return node;
}

}  // namespace

ScalarType resolve_plain(std::string_view text) {
  if (text.empty() || one_of(text, {"~", "null", "Null", "NULL"})) {
    return ScalarType::kNull;
  }
  if (one_of(text, {"yes", "Yes", "YES", "no", "No", "NO", "true", "True", "TRUE", "on", "On", "ON",
                    "false", "False", "FALSE", "off", "Off", "OFF"})) {
    return ScalarType::kBool;
  }
  if (text == "<<") {
    return ScalarType::kMerge;
  }
  if (text == "=") {
    return ScalarType::kValue;
  }
  if (is_digit(text[0]) || text[0] == '-' || text[0] == '+' || text[0] == '.') {
    if (is_float(text)) {
      return ScalarType::kFloat;
    }
    if (is_int(text)) {
      return ScalarType::kInt;
    }
    if (match_timestamp(text)) {
      return ScalarType::kTimestamp;
    }
  }
  return ScalarType::kString;
}

std::optional<Node> construct_scalar(ScalarType type, std::string_view text, Mark mark) {
  switch (type) {
    case ScalarType::kString:
    case ScalarType::kMerge:
      return Node::make_string(std::string(text), mark);
    case ScalarType::kNull:
      return Node::null_at(mark);
    case ScalarType::kBool:
      return construct_bool(text, mark);
    case ScalarType::kInt:
      return construct_int(text, mark);
    case ScalarType::kFloat:
      return construct_float(text, mark);
    case ScalarType::kTimestamp:
      return construct_timestamp(text, mark);
    case ScalarType::kBinary:
      return construct_binary(text, mark);
    case ScalarType::kValue:
      return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace quad::spec
