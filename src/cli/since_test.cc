#include "cli/since.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>

namespace quad::cli {
namespace {

/// In New York it is the 1st of December 2026, 18:04:27.067.
class Since : public testing::Test {
 protected:
  void SetUp() override { in_zone("America/New_York"); }
  void TearDown() override {
    ::unsetenv("TZ");
    ::tzset();
  }
  static void in_zone(const char* zone) {
    ::setenv("TZ", zone, 1);
    ::tzset();
  }
  static std::string of(std::string_view text, const char* now = "2026-12-01T23:04:27.067Z") {
    const auto since = since_text(text, *parse_rfc3339(now));
    return since.ok() ? *since : "refused: " + since.error().message;
  }
};

TEST_F(Since, TakesTheTimesThatAStoryShows) {
  EXPECT_EQ(of("18:04:27.067"), "2026-12-01T23:04:27.067Z");
  EXPECT_EQ(of("18:04:27"), "2026-12-01T23:04:27.000Z");
  EXPECT_EQ(of("18:04"), "2026-12-01T23:04:00.000Z");
  EXPECT_EQ(of("2026-11-30 18:04:27.5"), "2026-11-30T23:04:27.500Z");
  EXPECT_EQ(of("2026-11-30T18:04:27"), "2026-11-30T23:04:27.000Z");
  EXPECT_EQ(of("2026-11-30 18:04"), "2026-11-30T23:04:00.000Z");
  EXPECT_EQ(of("2026-11-30"), "2026-11-30T05:00:00.000Z");
}

TEST_F(Since, AClockIsTheLastSuchTimeThatHasBeen) {
  EXPECT_EQ(of("18:04:27.068"), "2026-11-30T23:04:27.068Z");
  EXPECT_EQ(of("23:59:59"), "2026-12-01T04:59:59.000Z");
  EXPECT_EQ(of("0:00"), "2026-12-01T05:00:00.000Z");
  EXPECT_EQ(of("23:30", "2026-12-01T05:10:00Z"), "2026-12-01T04:30:00.000Z");  // ten past midnight
}

TEST_F(Since, TheDayBeforeMayHave23Or25Hours) {
  EXPECT_EQ(of("18:00", "2026-11-01T22:00:00Z"), "2026-10-31T22:00:00.000Z");  // 25
  EXPECT_EQ(of("18:00", "2026-03-08T21:00:00Z"), "2026-03-07T23:00:00.000Z");  // 23
}

TEST_F(Since, WhatHasAZoneOrSaysHowLongAgoIsForTheServer) {
  for (const char* text :
       {"10m", "2h", "2026-11-23T10:00:00Z", "2026-11-23T10:00:00+02:00", "soon"}) {
    EXPECT_EQ(of(text), text);
  }
}

TEST_F(Since, WhatIsNoTimeIsTold) {
  for (const char* text :
       {"25:00", "12:60", "1:2:3", "12:30.5", "12:30:00.", "2026-02-30", "2026-13-01 10:00",
        "26-11-23", "2026-11-23x10:00", "2026-11-23 ", "10:00 PM", "-", ":", "12:30:00.x"}) {
    EXPECT_TRUE(of(text).starts_with("refused: '" + std::string(text) + "' is no time"))
        << of(text);
  }
}

}  // namespace
}  // namespace quad::cli
