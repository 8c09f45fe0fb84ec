// Dotenv files, as python-dotenv reads them.

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "base/text.h"
#include "spec/parse.h"

namespace quad::spec {

namespace {

using Lookup = std::function<std::optional<std::string>(std::string_view)>;

constexpr std::size_t kMostBytes = 1U << 20U;
constexpr std::size_t kMostExpandedBytes = 8U << 20U;  ///< of all values together
constexpr std::size_t kMostValues = 10'000;

class EnvFileReader {
 public:
  EnvFileReader(std::string_view text, const Lookup& environment)
      : text_(text), environment_(environment) {}

  Result<std::vector<NamedValue>> read() {
    while (skip_to_binding()) {
      QUAD_TRY(read_binding());
      if (values_.size() > kMostValues) {
        return fault("is one variable too many");
      }
    }
    return std::move(values_);
  }

 private:
  [[nodiscard]] bool done() const { return at_ >= text_.size(); }
  [[nodiscard]] char peek() const { return done() ? '\0' : text_[at_]; }

  void skip_blanks() {
    while (!done() && (peek() == ' ' || peek() == '\t' || peek() == '\r')) {
      ++at_;
    }
  }

  void skip_line() { at_ = std::min(text_.find('\n', at_), text_.size()); }

  /// Past blank lines and comments; false at the end.
  bool skip_to_binding() {
    for (;;) {
      skip_blanks();
      if (peek() == '#') {
        skip_line();
      } else if (peek() == '\n' && !done()) {
        ++at_;
      } else {
        return !done();
      }
    }
  }

  Error fault(std::string_view what) const {
    const auto line =
        1 + std::count(text_.begin(),
                       text_.begin() + static_cast<std::ptrdiff_t>(std::min(at_, text_.size())),
                       '\n');
    return error(ErrorCode::kInvalid, fmt::format("line {} of the env file {}", line, what),
                 std::to_string(line));
  }

  Result<std::string> read_name() {
    if (text_.substr(at_).starts_with("export") && at_ + 6 < text_.size() &&
        (text_[at_ + 6] == ' ' || text_[at_ + 6] == '\t')) {
      at_ += 6;
      skip_blanks();
    }
    if (peek() == '\'') {
      const std::size_t end = text_.find('\'', at_ + 1);
      if (end == std::string_view::npos) {
        return fault("has a quoted name without an end");
      }
      std::string name(text_.substr(at_ + 1, end - at_ - 1));
      at_ = end + 1;
      return name;
    }
    const std::size_t end = std::min(text_.find_first_of("=# \t\r\n", at_), text_.size());
    std::string name(text_.substr(at_, end - at_));
    at_ = end;
    if (name.empty()) {
      return fault("has no name; write NAME=value");
    }
    return name;
  }

  Status read_binding() {
    QUAD_ASSIGN(std::string name, read_name());
    skip_blanks();
    if (peek() != '=') {
      return fault("gives a name no value; write NAME=value");  // which may be a secret itself
    }
    ++at_;
    skip_blanks();
    QUAD_ASSIGN(std::string value, read_value());
    const auto place = std::find_if(values_.begin(), values_.end(),
                                    [&](const NamedValue& v) { return v.first == name; });
    if (place != values_.end()) {
      place->second = std::move(value);
    } else {
      values_.emplace_back(std::move(name), std::move(value));
    }
    return {};
  }

  Result<std::string> read_value() {
    const char quote = peek();
    if (quote != '"' && quote != '\'') {
      const std::size_t end = std::min(text_.find('\n', at_), text_.size());
      std::string_view value = text_.substr(at_, end - at_);
      at_ = end;
      for (std::size_t i = 0; i < value.size(); ++i) {
        if (i > 0 && value[i] == '#' && (value[i - 1] == ' ' || value[i - 1] == '\t')) {
          value = value.substr(0, i);
          break;
        }
      }
      return expand(trim(value));
    }
    std::string value;
    for (++at_;; ++at_) {
      if (done()) {
        return fault("has a quoted value without an end");
      }
      if (peek() == quote) {
        break;
      }
      if (peek() == '\\' && at_ + 1 < text_.size()) {
        value += unescape(text_[++at_], quote);
      } else {
        value += peek();
      }
    }
    ++at_;
    skip_blanks();
    if (!done() && peek() != '\n' && peek() != '#') {
      return fault("has text after its closing quote");
    }
    skip_line();
    return expand(value);
  }

  static std::string unescape(char c, char quote) {
    if (c == quote || c == '\\') {
      return {c};
    }
    if (quote == '"') {
      constexpr std::string_view kNames = "abfnrtv'";
      constexpr std::string_view kValues = "\a\b\f\n\r\t\v'";
      const std::size_t found = kNames.find(c);
      if (found != std::string_view::npos) {
        return {kValues[found]};
      }
    }
    return {'\\', c};
  }

  /// ${NAME} and ${NAME:-default}; a name that nobody knows is empty.
  Result<std::string> expand(std::string_view value) {
    std::string out;
    std::size_t at = 0;
    while (at < value.size()) {
      const std::size_t start = value.find("${", at);
      const std::size_t end = start == std::string_view::npos ? start : value.find('}', start);
      if (end == std::string_view::npos) {
        out += value.substr(at);
        break;
      }
      out += value.substr(at, start - at);
      const std::string_view inside = value.substr(start + 2, end - start - 2);
      const std::size_t minus = inside.find(":-");
      const std::string_view name = inside.substr(0, minus);
      const auto known = look_up(name);
      if (known) {
        out += *known;
      } else if (minus != std::string_view::npos) {
        out += inside.substr(minus + 2);
      }
      at = end + 1;
      if (expanded_ + out.size() > kMostExpandedBytes) {
        return fault("has a value that grows too long once its variables are filled in");
      }
    }
    expanded_ += out.size();
    return out;
  }

  std::optional<std::string> look_up(std::string_view name) const {
    for (const NamedValue& value : values_) {
      if (value.first == name) {
        return value.second;
      }
    }
    return environment_ ? environment_(name) : std::nullopt;
  }

  std::string_view text_;
  const Lookup& environment_;
  std::size_t at_ = 0;
  std::size_t expanded_ = 0;
  std::vector<NamedValue> values_;
};

}  // namespace

Result<std::vector<NamedValue>> parse_env_file(std::string_view text, const Lookup& environment) {
  if (text.size() > kMostBytes) {
    return error(
        ErrorCode::kInvalid,
        fmt::format("the env file has {} bytes; {} are the most allowed", text.size(), kMostBytes));
  }
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (text.starts_with(kByteOrderMark)) {
    text.remove_prefix(kByteOrderMark.size());
  }
  return EnvFileReader(text, environment).read();
}

}  // namespace quad::spec
