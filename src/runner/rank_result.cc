#include "runner/rank_result.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/text.h"

namespace quad::runner {

namespace {

constexpr std::string_view kCut = "…";
constexpr std::size_t kLongestEscape = 6;  // \u001b: what one byte may take in JSON

/// The whole characters of `text`, which is UTF-8, in its first `bytes`.
std::string_view beginning(std::string_view text, std::size_t bytes) {
  if (bytes >= text.size()) {
    return text;
  }
  while (bytes > 0 && (static_cast<unsigned char>(text[bytes]) & 0xC0U) == 0x80U) {
    --bytes;  // a character goes on here
  }
  return text.substr(0, bytes);
}

}  // namespace

json::object to_json(const RankResult& result) {
  return {{"how", result.how},           {"code", result.code},
          {"by_quad", result.by_quad},   {"out_of_memory", result.out_of_memory},
          {"in_setup", result.in_setup}, {"detail", result.detail},
          {"log_end", result.log_end},   {"at_ms", result.at_ms}};
}

RankResult result_from(const json::object& object) {
  RankResult result;
  result.how = get_string(object, "how", "exited");
  result.code = static_cast<std::int32_t>(get_int(object, "code"));
  result.by_quad = get_bool(object, "by_quad");
  result.out_of_memory = get_bool(object, "out_of_memory");
  result.in_setup = get_bool(object, "in_setup");
  result.detail = get_string(object, "detail");
  result.log_end = static_cast<std::uint64_t>(get_int(object, "log_end"));
  result.at_ms = get_int(object, "at_ms");
  return result;
}

std::string termination_message(RankResult result) {
  const std::string whole = valid_utf8(result.detail);
  std::string_view kept = beginning(whole, kTerminationMessageBytes);
  for (;;) {
    result.detail = kept;
    if (kept.size() < whole.size()) {
      result.detail += kCut;
    }
    std::string text = to_text(to_json(result));
    if (text.size() <= kTerminationMessageBytes || kept.empty()) {
      return text;
    }
    const std::size_t excess = text.size() - kTerminationMessageBytes;
    kept = beginning(kept, kept.size() - std::min(kept.size(), excess / kLongestEscape + 1));
  }
}

}  // namespace quad::runner
