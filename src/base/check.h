// base/check.h
//
// QUAD_CHECK(condition, message): for what cannot happen unless Quad itself is wrong. Prints where
// and what, and aborts, so that a broken invariant never reaches the store. Never for input.

#pragma once

#include <string_view>

namespace quad {

[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               std::string_view message);

}  // namespace quad

#define QUAD_CHECK(condition, message)                                 \
  do {                                                                 \
    if (!(condition)) [[unlikely]] {                                   \
      ::quad::check_failed(__FILE__, __LINE__, #condition, (message)); \
    }                                                                  \
  } while (false)
