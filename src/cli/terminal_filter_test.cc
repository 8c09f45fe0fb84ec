#include "cli/terminal_filter.h"

#include <gtest/gtest.h>

namespace quad::cli {
namespace {

std::string filtered(std::string_view bytes) {
  TerminalFilter filter;
  std::string out = filter.filter(bytes);
  out += filter.finish();
  // Wherever it is cut, it is the same.
  for (std::size_t cut = 1; cut < bytes.size(); ++cut) {
    TerminalFilter pieces;
    std::string same = pieces.filter(bytes.substr(0, cut));
    same += pieces.filter(bytes.substr(cut));
    same += pieces.finish();
    EXPECT_EQ(same, out) << "cut at " << cut;
  }
  return out;
}

TEST(TerminalFilter, LeavesTextColoursAndProgressBars) {
  for (const char* text :
       {"plain\n", "\x1b[31mred\x1b[0m\n", "\x1b[38;5;120mx\x1b[m\n", "\r 50%|###  |\x1b[K",
        "a\tb\r\n", "1/3\b\b\b2/3", "ü – 日本語 ✓\n", "\xff\xfe bytes\n", "[1/10] step\n"}) {
    EXPECT_EQ(filtered(text), text);
  }
}

TEST(TerminalFilter, LeavesOutWhatActsOnTheTerminal) {
  EXPECT_EQ(filtered("a\x1b]0;title\x07"
                     "b"),
            "ab");
  EXPECT_EQ(filtered("a\x1b]52;c;ZXZpbA==\x1b\\b"), "ab");
  EXPECT_EQ(filtered("a\x1bPq#0\x1b\\b"), "ab");
  EXPECT_EQ(filtered("a\x1b[2J\x1b[H\x1b[5A\x1b[6n\x1b[?1049h\x1b[?25lb"), "ab");
  EXPECT_EQ(filtered("a\x1b"
                     "cb\x1b(0c\x1b#8d"),
            "abcd");
  EXPECT_EQ(filtered("a\x07\x0e\x0f\x05\x7f"
                     "b"),
            "ab");
  EXPECT_EQ(filtered("a\x1b[>4;1mb\x1b[?5mc"), "abc");
  EXPECT_EQ(filtered("\x1b]0;no end\nnext\n"), "\nnext\n");
}

TEST(TerminalFilter, C1ControlsAreLeftOut) {
  TerminalFilter filter;
  EXPECT_EQ(filter.filter("a\xc2\x9b"
                          "31mb"),
            "a31mb");
  EXPECT_EQ(filter.filter("caf\xc3\xa9 \xc2\xb5m"), "caf\xc3\xa9 \xc2\xb5m");
}

TEST(TerminalFilter, LinesOfQuadsOwnCannotBeForged) {
  EXPECT_EQ(filtered("[quad: attempt 2 follows]\n"), "\\[quad: attempt 2 follows]\n");
  EXPECT_EQ(filtered("x\n[quad: y]\n"), "x\n\\[quad: y]\n");
  EXPECT_EQ(filtered("x\r[quad: y]\n"), "x\r\\[quad: y]\n");
  EXPECT_EQ(filtered("\x1b[1m[quad: y]\n"), "\x1b[1m\\[quad: y]\n");
  EXPECT_EQ(filtered("see [quad: y]\n[quack]\n["), "see [quad: y]\n[quack]\n[");
}

}  // namespace
}  // namespace quad::cli
