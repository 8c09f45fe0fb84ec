#include "engine/kubernetes/views/quantity.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <limits>

namespace quad::kubernetes {

namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
constexpr int kMostDigits = 18;  // of a mantissa; more would be cut off anyway

struct Suffix {
  std::string_view text;
  int twos = 0;  ///< power of two
  int tens = 0;  ///< power of ten
};

constexpr std::array kSuffixes = {
    Suffix{"", 0, 0},    Suffix{"n", 0, -9},  Suffix{"u", 0, -6},  Suffix{"m", 0, -3},
    Suffix{"k", 0, 3},   Suffix{"M", 0, 6},   Suffix{"G", 0, 9},   Suffix{"T", 0, 12},
    Suffix{"P", 0, 15},  Suffix{"E", 0, 18},  Suffix{"Ki", 10, 0}, Suffix{"Mi", 20, 0},
    Suffix{"Gi", 30, 0}, Suffix{"Ti", 40, 0}, Suffix{"Pi", 50, 0}, Suffix{"Ei", 60, 0},
};

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

__extension__ using Wide = unsigned __int128;

/// mantissa * 2^twos * 10^tens, rounded up, at most kMost.
std::int64_t scaled(std::uint64_t mantissa, int twos, int tens) {
  Wide value = mantissa;
  const Wide limit = static_cast<Wide>(kMost) << 60U;  // far from overflow by one more step of ten
  for (; twos > 0; --twos) {
    value = value > limit ? limit : value * 2;
  }
  for (; tens > 0; --tens) {
    value = value > limit ? limit : value * 10;
  }
  bool rest = false;
  for (; tens < 0; ++tens) {
    rest = rest || value % 10 != 0;
    value /= 10;
  }
  value += rest ? 1 : 0;
  return value > static_cast<Wide>(kMost) ? kMost : static_cast<std::int64_t>(value);
}

std::optional<std::int64_t> parse(std::string_view text, int more_tens) {
  if (text.starts_with('+')) {
    text.remove_prefix(1);
  }
  std::uint64_t mantissa = 0;
  int tens = 0;
  int digits = 0;
  bool any = false;
  bool fraction = false;
  std::size_t at = 0;
  for (; at < text.size() && (is_digit(text[at]) || (text[at] == '.' && !fraction)); ++at) {
    if (text[at] == '.') {
      fraction = true;
      continue;
    }
    any = true;
    if (digits == kMostDigits) {
      tens += fraction ? 0 : 1;  // digits past what is kept only move the point
      continue;
    }
    mantissa = mantissa * 10 + static_cast<std::uint64_t>(text[at] - '0');
    digits += mantissa > 0 ? 1 : 0;
    tens -= fraction ? 1 : 0;
  }
  if (!any) {
    return std::nullopt;
  }
  const std::string_view rest = text.substr(at);
  for (const Suffix& suffix : kSuffixes) {
    if (rest == suffix.text) {
      return scaled(mantissa, suffix.twos, tens + suffix.tens + more_tens);
    }
  }
  if (rest.size() > 1 && (rest[0] == 'e' || rest[0] == 'E')) {
    std::string_view power = rest.substr(1);
    if (power[0] == '+') {
      power.remove_prefix(1);
    }
    int exponent = 0;
    const auto [end, failure] =
        std::from_chars(power.data(), power.data() + power.size(), exponent);
    constexpr int kFarthest = 40;
    if (failure == std::errc() && end == power.data() + power.size() && exponent >= -kFarthest &&
        exponent <= kFarthest) {
      return scaled(mantissa, 0, tens + exponent + more_tens);
    }
  }
  return std::nullopt;
}

std::int64_t member(const json::object& list, std::string_view key, int more_tens) {
  const json::value* value = list.if_contains(key);
  if (value == nullptr) {
    return 0;
  }
  if (const auto* text = value->if_string()) {
    return parse(std::string_view(text->data(), text->size()), more_tens).value_or(0);
  }
  return value->is_number() ? parse(to_text(*value), more_tens).value_or(0) : 0;
}

}  // namespace

std::optional<std::int64_t> quantity_units(std::string_view text) {
  return parse(text, 0);
}

std::optional<std::int64_t> quantity_milli(std::string_view text) {
  return parse(text, 3);
}

std::int64_t units_of(const json::object& list, std::string_view key) {
  return member(list, key, 0);
}

std::int64_t milli_of(const json::object& list, std::string_view key) {
  return member(list, key, 3);
}

std::string cpu_quantity(std::int64_t milli) {
  return milli % 1000 == 0 ? fmt::format("{}", milli / 1000) : fmt::format("{}m", milli);
}

std::string byte_quantity(std::int64_t bytes) {
  constexpr std::int64_t kGi = 1LL << 30U;
  constexpr std::int64_t kMi = 1LL << 20U;
  constexpr std::int64_t kG = 1'000'000'000;
  constexpr std::int64_t kM = 1'000'000;
  if (bytes % kGi == 0) {
    return bytes == 0 ? "0" : fmt::format("{}Gi", bytes / kGi);
  }
  if (bytes % kG == 0) {
    return fmt::format("{}G", bytes / kG);
  }
  if (bytes % kMi == 0) {
    return fmt::format("{}Mi", bytes / kMi);
  }
  return bytes % kM == 0 ? fmt::format("{}M", bytes / kM) : fmt::format("{}", bytes);
}

std::string format_bytes(std::int64_t bytes) {
  constexpr double kMi = 1LL << 20U;
  constexpr double kGi = 1LL << 30U;
  const auto amount = static_cast<double>(bytes);
  const bool big = amount >= kGi;
  const double scaled_amount = amount / (big ? kGi : kMi);
  const std::string number = fmt::format("{:.1f}", scaled_amount);
  return fmt::format("{} {}", number.ends_with(".0") ? number.substr(0, number.size() - 2) : number,
                     big ? "GiB" : "MiB");
}

}  // namespace quad::kubernetes
