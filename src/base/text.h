// base/text.h
//
// Small text functions that messages are made of. Pure, any thread.

#pragma once

#include <charconv>
#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace quad {

/// The candidate nearest to `word` by edit distance (with transposition), if it is near enough to
/// be a likely typing slip: at most a third of the longer word's length, at least 1. Ties go to the
/// first candidate. O(words × length²).
std::optional<std::string_view> nearest(std::string_view word,
                                        const std::vector<std::string_view>& candidates);

/// "a, b and c"; "a"; "".
std::string join_words(const std::vector<std::string_view>& words,
                       std::string_view conjunction = "and");

/// The parts of `text` between `separator`s; empty parts are kept; "" gives one empty part.
std::vector<std::string_view> split(std::string_view text, char separator);

/// `text` without white space at either end.
std::string_view trim(std::string_view text);

/// The number that all of `text` is, in decimal, without white space or a +; nullopt if it is none
/// or does not fit.
template <std::integral Number = std::int64_t>
std::optional<Number> parse_number(std::string_view text) {
  Number value{};
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failure == std::errc() && end == text.data() + text.size() ? std::optional(value)
                                                                    : std::nullopt;
}

/// Whether they are the same but for the case of ASCII letters.
bool same_ignoring_case(std::string_view a, std::string_view b);

/// "SIGKILL"; "signal 64" where it has no name.
std::string signal_name(int signal);

/// The text with what is no UTF-8 replaced by U+FFFD.
std::string valid_utf8(std::string_view text);

/// Text that others wrote, safe to show on a terminal: valid UTF-8 on one line, with a space for
/// each control character (C0, DEL and C1, all of which terminals obey).
std::string printable(std::string_view text);

/// `text` quoted for a POSIX shell: one word, whatever is inside. Safe words are left as they are.
std::string shell_quote(std::string_view text);

/// Lower-case hexadecimal of bytes.
std::string to_hex(std::string_view bytes);

/// `count` bytes of the kernel's randomness as lower-case hexadecimal: tokens and nonces.
std::string random_hex(std::size_t count);

}  // namespace quad
