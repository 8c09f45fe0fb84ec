#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/account.h"
#include "base/file.h"
#include "base/ids.h"
#include "base/json.h"
#include "base/text.h"
#include "base/time.h"

namespace quad {
namespace {

TEST(Time, Rfc3339GoesThereAndBack) {
  const WallTime time{1'795'454'200'123};
  EXPECT_EQ(format_rfc3339(time), "2026-11-23T17:16:40.123Z");
  EXPECT_EQ(parse_rfc3339("2026-11-23T17:16:40.123Z").value(), time);
  EXPECT_EQ(parse_rfc3339("2026-11-23T19:16:40.123+02:00").value(), time);
  EXPECT_FALSE(parse_rfc3339("yesterday").ok());
  EXPECT_FALSE(parse_rfc3339("2026-11-23T17:16:40").ok());
  EXPECT_FALSE(parse_rfc3339("").ok());
}

TEST(Time, DurationsReadAsPeopleSayThem) {
  EXPECT_EQ(format_duration(Millis(350)), "350 ms");
  EXPECT_EQ(format_duration(Millis(2400)), "2.4 s");
  EXPECT_EQ(format_duration(Millis(42'000)), "42 s");
  EXPECT_EQ(format_duration(Millis(170'000)), "2 min 50 s");
  EXPECT_EQ(format_duration(Millis(7'980'000)), "2 h 13 min");
  EXPECT_EQ(format_duration(Millis(273'600'000)), "3 d 4 h");
}

TEST(Text, NearestFindsSlipsAndNothingElse) {
  EXPECT_EQ(nearest("acelerators", {"accelerators", "labels"}), "accelerators");
  EXPECT_EQ(nearest("nmae", {"name", "run"}), "name");
  EXPECT_EQ(nearest("frobnicate", {"name", "run"}), std::nullopt);
}

TEST(Text, OfOthersIsValidAndMovesNoCursor) {
  EXPECT_EQ(valid_utf8("a\xff\xc3\xa4\xed\xa0\x80"), "a\uFFFD\u00e4\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(valid_utf8("\xf0\x9f\x98\x80\xf0\x9f"), "\U0001F600\uFFFD\uFFFD");
  EXPECT_EQ(printable("a\x1b[2Jb\r\nc\x7f"), "a [2Jb  c ");
  EXPECT_EQ(printable("a\xc2\x9b"
                      "2Jb\xc2\x80\xc2\x9f\xc2\xa0\xc3\x80"),
            "a 2Jb  \xc2\xa0\xc3\x80");
  EXPECT_EQ(printable("\x9b"
                      "2J"),
            "\uFFFD"
            "2J");  // C1 as a bare byte, which old terminals obey
  EXPECT_EQ(printable(std::string_view("a\0b", 3)), "a b");
}

TEST(Text, ANumberIsAllOfTheTextAndFits) {
  EXPECT_EQ(parse_number("42"), 42);
  EXPECT_EQ(parse_number("-7"), -7);
  EXPECT_EQ(parse_number<std::int32_t>("2147483647"), 2'147'483'647);
  for (const char* none : {"", "+1", " 1", "1 ", "1x", "0x1", "1.0", "99999999999999999999"}) {
    EXPECT_EQ(parse_number(none), std::nullopt) << none;
  }
  EXPECT_EQ(parse_number<std::int32_t>("2147483648"), std::nullopt);
}

TEST(Text, SignalsHaveTheirNames) {
  EXPECT_EQ(signal_name(9), "SIGKILL");
  EXPECT_EQ(signal_name(64), "signal 64");
}

TEST(Text, CaseOfLettersIsPassedOver) {
  EXPECT_TRUE(same_ignoring_case("h100-SXM", "H100-sxm"));
  EXPECT_FALSE(same_ignoring_case("H100", "H100-SXM"));
}

TEST(Text, ShellQuoteMakesOneWord) {
  EXPECT_EQ(shell_quote("plain-word.1"), "plain-word.1");
  EXPECT_EQ(shell_quote(""), "''");
  EXPECT_EQ(shell_quote("it's $HOME"), "'it'\"'\"'s $HOME'");
}

TEST(Json, RefusesTrailingTextAndDepth) {
  EXPECT_TRUE(parse_json(R"({"a": [1, 2.5, "x"]})").ok());
  EXPECT_FALSE(parse_json("{} x").ok());
  EXPECT_FALSE(parse_json("").ok());
  EXPECT_FALSE(parse_json(std::string(100'000, '[')).ok());
}

TEST(Json, GettersFallBackOnAbsentOrMistyped) {
  const auto object = parse_json_object(R"({"n": 5, "s": "x", "b": true})").value();
  EXPECT_EQ(get_int(object, "n"), 5);
  EXPECT_EQ(get_int(object, "s", -1), -1);
  EXPECT_EQ(get_string(object, "s"), "x");
  EXPECT_EQ(get_string(object, "n", "none"), "none");
  EXPECT_TRUE(get_bool(object, "b"));
  EXPECT_EQ(get_object(object, "b"), nullptr);
}

TEST(File, AtomicWriteReplacesTheWholeContent) {
  const auto folder = std::filesystem::temp_directory_path() / ("quad-base-" + random_hex(4));
  ASSERT_TRUE(make_folders(folder / "a" / "b").ok());
  const auto path = folder / "a" / "b" / "file";
  ASSERT_TRUE(write_file_atomically(path, "first version").ok());
  ASSERT_TRUE(write_file_atomically(path, "second").ok());
  EXPECT_EQ(read_file(path).value(), "second");
  EXPECT_EQ(read_file(path, 3).error().code, ErrorCode::kExhausted);
  EXPECT_EQ(read_file(folder / "none").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(read_regular_file(path).value(), "second");
  EXPECT_EQ(read_regular_file(folder / "none").error().code, ErrorCode::kNotFound);
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(read_regular_file(folder / "pipe").error().code, ErrorCode::kInvalid);
  std::filesystem::create_symlink(path, folder / "link");
  EXPECT_EQ(read_regular_file(folder / "link").error().code, ErrorCode::kInvalid);
  std::filesystem::remove(folder / "pipe");
  std::filesystem::remove(folder / "link");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder / "a" / "b"), {}), 1);
  std::filesystem::remove_all(folder);
}

TEST(Ids, RankKeyNamesAreStable) {
  EXPECT_EQ(to_string(RankKey{JobId(17), Epoch(2), Rank(0)}), "17-2-0");
}

TEST(Account, IsReadAsItWasWritten) {
  const Account ana{5001, 100, {3000, 4'294'967'294U}, "ana"};
  EXPECT_EQ(account_from_json(to_json(ana)).value(), ana);
}

TEST(Account, ThatLacksItsNumbersIsNobody) {
  for (const char* text : {"{}", R"({"uid": 5})", R"({"gid": 5})", R"({"uid": "5", "gid": 5})",
                           R"({"uid": -1, "gid": 5})", R"({"uid": 4294967295, "gid": 5})",
                           R"({"uid": 5, "gid": 5, "groups": [true]})"}) {
    EXPECT_FALSE(account_from_json(parse_json_object(text).value()).ok()) << text;
  }
}

}  // namespace
}  // namespace quad
