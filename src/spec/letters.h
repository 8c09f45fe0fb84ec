// spec/letters.h
//
// ASCII letters, in any locale. Pure.

#pragma once

#include <algorithm>
#include <string>
#include <string_view>

namespace quad::spec {

inline char to_lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
}
inline char to_upper(char c) {
  return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
}

inline std::string to_lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](char c) { return to_lower(c); });
  return out;
}

inline std::string to_upper(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](char c) { return to_upper(c); });
  return out;
}

inline bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
inline bool is_letter(char c) {
  return to_lower(c) >= 'a' && to_lower(c) <= 'z';
}
inline bool is_alphanumeric(char c) {
  return is_letter(c) || is_digit(c);
}

}  // namespace quad::spec
