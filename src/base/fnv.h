// base/fnv.h
//
// FNV-1a with 64 bits: to tell a record that was written whole from one that was torn, or to name
// something after a text. No protection against a person who wants two to be alike. Pure,
// O(length).

#pragma once

#include <cstdint>
#include <string_view>

namespace quad {

constexpr std::uint64_t fnv1a(std::string_view bytes) {
  std::uint64_t hash = 0xCBF29CE484222325ULL;
  for (const char c : bytes) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  }
  return hash;
}

}  // namespace quad
