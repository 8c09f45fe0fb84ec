#include "base/base64.h"

#include <array>
#include <cstdint>

namespace quad {

namespace {

constexpr std::string_view kAlphabet =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

}  // namespace

std::string base64_encode(std::string_view bytes) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    const auto byte = [&](std::size_t offset) -> std::uint32_t {
      return at + offset < bytes.size() ? static_cast<unsigned char>(bytes[at + offset]) : 0U;
    };
    const std::uint32_t group = (byte(0) << 16U) | (byte(1) << 8U) | byte(2);
    out += kAlphabet[group >> 18U];
    out += kAlphabet[(group >> 12U) & 63U];
    out += at + 1 < bytes.size() ? kAlphabet[(group >> 6U) & 63U] : '=';
    out += at + 2 < bytes.size() ? kAlphabet[group & 63U] : '=';
  }
  return out;
}

std::optional<std::string> base64_decode(std::string_view text) {
  std::string out;
  out.reserve(text.size() / 4 * 3);
  std::uint32_t group = 0;
  int digits = 0;
  int padding = 0;
  for (const char c : text) {
    if (c == ' ' || c == '\n' || c == '\r' || c == '\t') {
      continue;
    }
    if (c == '=') {
      ++padding;
      continue;
    }
    const auto value = kAlphabet.find(c);
    if (value == std::string_view::npos || padding > 0) {
      return std::nullopt;
    }
    group = (group << 6U) | static_cast<std::uint32_t>(value);
    if (++digits == 4) {
      out += static_cast<char>(group >> 16U);
      out += static_cast<char>((group >> 8U) & 255U);
      out += static_cast<char>(group & 255U);
      group = 0;
      digits = 0;
    }
  }
  if ((digits + padding) % 4 != 0 || padding > 2 || digits == 1) {
    return std::nullopt;
  }
  if (digits >= 2) {
    out += static_cast<char>((group >> (digits == 2 ? 4U : 10U)) & 255U);
  }
  if (digits == 3) {
    out += static_cast<char>((group >> 2U) & 255U);
  }
  return out;
}

}  // namespace quad
