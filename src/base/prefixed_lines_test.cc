#include "base/prefixed_lines.h"

#include <gtest/gtest.h>

#include <vector>

namespace quad {
namespace {

struct Said {
  std::int64_t source;
  std::string_view text;
};

std::string shown(const std::vector<Said>& all) {
  PrefixedLines lines;
  std::string out;
  for (const Said& one : all) {
    lines.add(out, one.source, one.source == 0 ? "a: " : "b: ", one.text);
  }
  return out;
}

TEST(PrefixedLines, HaveAPrefixEach) {
  EXPECT_EQ(shown({{0, "one\ntwo\n"}, {1, "\n"}}), "a: one\na: two\nb: \n");
}

TEST(PrefixedLines, GoOnWhereTheyWere) {
  EXPECT_EQ(shown({{0, "Pass"}, {0, "word: "}, {0, "ok\n"}}), "a: Password: ok\n");
}

TEST(PrefixedLines, AreNotWrittenIntoByOthers) {
  EXPECT_EQ(shown({{0, "half"}, {1, "whole\n"}, {0, " more\n"}}), "a: half\nb: whole\na:  more\n");
}

TEST(PrefixedLines, AProgressBarKeepsItsPrefix) {
  EXPECT_EQ(shown({{0, "\r1/3"}, {0, "\r2/3"}, {0, "\r3/3\n"}}), "a: 1/3\ra: 2/3\ra: 3/3\n");
  EXPECT_EQ(shown({{0, "1/3\r"}, {0, "2/3\r"}, {0, "\n"}}), "a: 1/3\ra: 2/3\r\n");
  EXPECT_EQ(shown({{0, "\r1/3"}, {1, "\r9/9"}, {0, "\r2/3"}}), "a: 1/3\nb: 9/9\na: 2/3");
}

TEST(PrefixedLines, WindowsEndsOfLinesAreOne) {
  EXPECT_EQ(shown({{0, "x\r\ny\r\n"}}), "a: x\r\na: y\r\n");
}

}  // namespace
}  // namespace quad
