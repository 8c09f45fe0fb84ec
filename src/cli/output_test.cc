#include "cli/output.h"

#include <gtest/gtest.h>

#include "base/text.h"
#include "cli/terminal.h"

namespace quad::cli {
namespace {

TEST(Text, IsMeasuredInCharactersWithoutColours) {
  EXPECT_EQ(cells("abc"), 3U);
  EXPECT_EQ(cells("\x1b[32mgrün\x1b[0m"), 4U);
  EXPECT_EQ(fitted("abcdef", 6), "abcdef");
  EXPECT_EQ(fitted("abcdef", 4), "abc…");
  EXPECT_EQ(cells(fitted("äöüß", 3)), 3U);
  EXPECT_EQ(fitted("\x1b[32mRUNNING\x1b[0m", 4), "\x1b[32mRUN…\x1b[0m");
}

TEST(Text, OfOthersMovesNoCursor) {
  EXPECT_EQ(printable("a\x1b[2Jb\r\nc\x7f"), "a [2Jb  c ");
  EXPECT_EQ(valid_utf8("a\xff\xc3\xa4\xed\xa0\x80"), "a\uFFFD\u00e4\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(valid_utf8("\xf0\x9f\x98\x80\xf0\x9f"), "\U0001F600\uFFFD\uFFFD");
}

Table table() {
  Table table({{"ID"}, {"NAME", true}, {"USER", true, true}, {"STATUS"}});
  table.add({"1", "a-rather-long-name", "ana", "\x1b[32mRUNNING\x1b[0m"});
  table.add({"12", "b", "bo", "FAILED"});
  return table;
}

TEST(Tables, AreAsWideAsTheyAreInAPipe) {
  EXPECT_EQ(table().text(0),
            "ID  NAME                USER  STATUS\n"
            "1   a-rather-long-name  ana   \x1b[32mRUNNING\x1b[0m\n"
            "12  b                   bo    FAILED\n");
}

TEST(Tables, LeaveOutThenCutThenClip) {
  EXPECT_EQ(table().text(31),
            "ID  NAME                STATUS\n"
            "1   a-rather-long-name  \x1b[32mRUNNING\x1b[0m\n"
            "12  b                   FAILED\n");
  EXPECT_EQ(table().text(20),
            "ID  NAME     STATUS\n"
            "1   a-rath…  \x1b[32mRUNNING\x1b[0m\n"
            "12  b        FAILED\n");
  for (std::size_t width = 1; width < 50; ++width) {
    const std::string text = table().text(width);
    for (const std::string_view line : split(text, '\n')) {
      EXPECT_LE(cells(line), width);
    }
  }
}

TEST(Outcomes, SayNothingTwice) {
  const auto text = [](std::string_view status, std::string_view message) {
    return outcome_text(json::object{{"status", status}, {"message", message}}, -1);
  };
  EXPECT_EQ(text("SUCCEEDED", "Succeeded."), "SUCCEEDED.");
  EXPECT_EQ(text("FAILED", "Failed: rank 0 on n1 exited with code 3."),
            "FAILED: rank 0 on n1 exited with code 3.");
  EXPECT_EQ(text("CANCELLED", "Cancelled by ana."), "CANCELLED: Cancelled by ana.");
}

TEST(Counts, AreWords) {
  EXPECT_EQ(counted(1, "node"), "1 node");
  EXPECT_EQ(counted(0, "node"), "0 nodes");
  EXPECT_EQ(counted(2, "recovery", "recoveries"), "2 recoveries");
}

}  // namespace
}  // namespace quad::cli
