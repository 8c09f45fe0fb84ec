#include "base/prefixed_lines.h"

namespace quad {

void PrefixedLines::add(std::string& out, std::int64_t source, std::string_view prefix,
                        std::string_view text) {
  while (!text.empty()) {
    const std::size_t at = text.find_first_of("\r\n");
    const std::string_view piece = text.substr(0, at);
    const char ending = at == std::string_view::npos ? '\0' : text[at];
    text.remove_prefix(at == std::string_view::npos ? text.size() : at + 1);
    if (open_ && *open_ != source) {
      finish(out);
    }
    // A line begins only with something to see: not with the return that a progress bar begins
    // with.
    if (!open_ && piece.empty() && ending == '\r') {
      continue;
    }
    if (!open_ || (returned_ && !piece.empty())) {
      out += prefix;
    }
    out += piece;
    returned_ = ending == '\r' || (returned_ && piece.empty());
    if (ending != '\0') {
      out += ending;
    }
    open_ = ending == '\n' ? std::nullopt : std::optional(source);
    returned_ = returned_ && open_.has_value();
  }
}

void PrefixedLines::finish(std::string& out) {
  if (open_) {
    out += '\n';
  }
  open_.reset();
  returned_ = false;
}

}  // namespace quad
