#include "base/git_address.h"

#include <algorithm>
#include <array>
#include <cctype>

namespace quad {

bool is_git_address(std::string_view url) {
  const std::size_t colon = url.find(':');
  if (colon == std::string_view::npos || url.find('/') < colon) {
    return !url.empty() && !url.starts_with('-');  // a path
  }
  const std::string_view before = url.substr(0, colon);
  const std::string_view after = url.substr(colon + 1);
  if (!after.starts_with("//")) {
    // HOST:PATH, unless it names a helper, as in ext::COMMAND.
    const bool is_name = std::all_of(before.begin(), before.end(), [](unsigned char c) {
      return std::isalnum(c) != 0 || c == '+' || c == '-' || c == '.';
    });
    return !(is_name && after.starts_with(':')) && !url.starts_with('-');
  }
  constexpr std::array<std::string_view, 7> kSchemes = {"https", "http",    "ssh",    "git",
                                                        "file",  "git+ssh", "ssh+git"};
  return std::find(kSchemes.begin(), kSchemes.end(), before) != kSchemes.end();
}

}  // namespace quad
