// base/base64.h
//
// Base64 as RFC 4648 §4 has it, with padding. Pure, any thread.

#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace quad {

std::string base64_encode(std::string_view bytes);

/// White space is passed over, as files are often wrapped; nothing if any other character is out of
/// place.
std::optional<std::string> base64_decode(std::string_view text);

}  // namespace quad
