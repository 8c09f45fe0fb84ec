// cli/terminal_filter.h
//
// What a job has printed, as it may stand on somebody's terminal: text, colours, tabs, carriage
// returns and backspaces stay; what would move the cursor elsewhere, set titles or clipboards, ask
// the terminal or switch its modes is left out. A line that begins as Quad's own lines do,
// "[quad: ", gets a backslash before it. Pieces may be cut anywhere; O(length), holds back at most
// a few bytes. Sequences as ECMA-48 has them. One thread.

#pragma once

#include <string>
#include <string_view>

namespace quad::cli {

class TerminalFilter {
 public:
  [[nodiscard]] std::string filter(std::string_view bytes);
  /// What is still held back, at the end.
  [[nodiscard]] std::string finish();

 private:
  enum class State { kText, kEscape, kCharset, kSequence, kString, kStringEscape };

  void text(char byte, std::string& out);
  void sequence(char byte, std::string& out);
  void release(std::string& out);
  void release_lead(std::string& out);

  State state_ = State::kText;
  std::string sequence_;    ///< of a control sequence, from its ESC on
  std::string held_;        ///< the beginning of a line that may become "[quad:"
  bool lead_ = false;       ///< a byte that may begin a C1 control is held back
  bool line_start_ = true;  ///< nothing of the line has been seen
};

}  // namespace quad::cli
