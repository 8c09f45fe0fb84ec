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

TEST(Text, OfOthersIsMadeSafeWhereItIsPutIn) {
  const std::string evil =
      "a\x1b[2J\nb\xc2\x9b"
      "3J";
  EXPECT_EQ(safe_text("{}|{}|{}|{}\n", evil, std::string_view(evil), evil.c_str(), 5).text,
            "a [2J b 3J|a [2J b 3J|a [2J b 3J|5\n");
  EXPECT_EQ(safe_text("{}, {}", SafeText{"\x1b[31mFAILED\x1b[0m"}, evil).text,
            "\x1b[31mFAILED\x1b[0m, a [2J b 3J");
  Table table({{"NAME"}});
  table.add({evil});
  table.add({SafeText{"\x1b[2mx\x1b[0m"}});
  EXPECT_EQ(table.text(0), "NAME\na [2J b 3J\n\x1b[2mx\x1b[0m\n");
  testing::internal::CaptureStdout();
  print_json_line(json::object{{"name", evil}});
  const std::string line = testing::internal::GetCapturedStdout();
  EXPECT_EQ(line, "{\"name\":\"a\\u001b[2J\\nb\\u009b3J\"}\n");
  testing::internal::CaptureStderr();
  EXPECT_EQ(fail(error(ErrorCode::kNotFound, evil)), kNoSuch);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "error: a [2J b 3J\n");
}

Table table() {
  Table table({{"ID"}, {"NAME", true}, {"USER", true, true}, {"STATUS"}});
  table.add({"1", "a-rather-long-name", "ana", SafeText{"\x1b[32mRUNNING\x1b[0m"}});
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

TEST(Text, ThatIsNotSeenOrTurnsOthersRoundIsNotShown) {
  // Bidi_Control, zero-width and tag characters, separators of lines.
  for (const std::string_view hidden :
       {"\u061c", "\u200b", "\u200d", "\u200e", "\u200f", "\u202a", "\u202e", "\u2028", "\u2060",
        "\u2066", "\u2069", "\ufeff", "\u00ad", "\U000e0041", "\U0001d173"}) {
    EXPECT_EQ(safe_text("a{}b", hidden).text, "a b");
  }
  for (const std::string_view shown : {"ü", "日本", "עברית", "❤️", "é", "a\u00a0b", "🙂"}) {
    EXPECT_EQ(safe_text("{}", shown).text, shown);
  }
}

TEST(Outcomes, SayNothingTwice) {
  const auto text = [](std::string_view status, std::string_view message) {
    return outcome_text(json::object{{"status", status}, {"message", message}}, -1).text;
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
