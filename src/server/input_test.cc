#include "server/input.h"

#include <gtest/gtest.h>

#include "base/text.h"

namespace quad::server {
namespace {

QueryReader query(std::string_view text) {
  net::Request request;
  request.query = text;
  return QueryReader(request);
}

TEST(Input, AQueryGivesItsValues) {
  QueryReader reader = query("limit=20&follow=1&name=a%20b&off=false");
  EXPECT_EQ(reader.integer("limit", {1, 100}), 20);
  EXPECT_TRUE(reader.flag("follow"));
  EXPECT_FALSE(reader.flag("off"));
  EXPECT_FALSE(reader.flag("absent"));
  EXPECT_EQ(reader.text("name"), "a b");
  EXPECT_TRUE(reader.finish().ok());
}

TEST(Input, ANumberOutOfItsRangeIsNamed) {
  for (const char* text :
       {"limit=0", "limit=101", "limit=x", "limit=", "limit=1.5", "limit=99999999999999999999"}) {
    QueryReader reader = query(text);
    EXPECT_EQ(reader.integer("limit", {1, 100}), std::nullopt) << text;
    const Status status = reader.finish();
    ASSERT_FALSE(status.ok()) << text;
    EXPECT_EQ(status.error().where, "limit");
    EXPECT_NE(status.error().message.find("from 1 to 100"), std::string::npos);
  }
}

TEST(Input, AnUnknownQueryParameterIsNamedWithTheNearest) {
  QueryReader reader = query("limt=3");
  (void)reader.integer("limit", {1, 100});
  const Status status = reader.finish();
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("did you mean 'limit'"), std::string::npos);
}

TEST(Input, AParameterGivenTwiceIsAnError) {
  QueryReader reader = query("limit=3&limit=4");
  (void)reader.integer("limit", {1, 100});
  EXPECT_FALSE(reader.finish().ok());
}

TEST(Input, TimesAreInstantsOrHowLongAgo) {
  const WallTime now{1'795'454'200'000};
  QueryReader reader = query("a=10m&b=2026-11-23T17:16:40Z&c=soon");
  EXPECT_EQ(reader.time("a", now), (WallTime{now.millis - 600'000}));
  EXPECT_EQ(reader.time("b", now), now);
  EXPECT_EQ(reader.time("c", now), std::nullopt);
  EXPECT_FALSE(reader.finish().ok());
}

TEST(Input, AnObjectGivesItsMembersAndRefusesOtherTypes) {
  const auto object =
      parse_json_object(
          R"({"a": "x", "n": 3, "whole": 3.0, "f": true, "p": [["K", "V"]], "none": null})")
          .value();
  ObjectReader reader(object);
  EXPECT_EQ(reader.text("a"), "x");
  EXPECT_EQ(reader.integer("n", {0, 10}), 3);
  EXPECT_EQ(reader.integer("whole", {0, 10}), 3);
  EXPECT_EQ(reader.flag("f"), true);
  EXPECT_EQ(reader.pairs("p").size(), 1U);
  EXPECT_EQ(reader.text("none"), std::nullopt);
  EXPECT_TRUE(reader.finish().ok());

  ObjectReader wrong(object, "overrides.");
  EXPECT_EQ(wrong.integer("a", {}), std::nullopt);
  EXPECT_EQ(wrong.finish().error().where, "overrides.a");
}

TEST(Input, AnUnknownMemberIsAnError) {
  const auto object = parse_json_object(R"({"yml": "run: x"})").value();
  ObjectReader reader(object);
  (void)reader.text("yaml");
  const Status status = reader.finish();
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("did you mean 'yaml'"), std::string::npos);
}

TEST(Input, WhatIsShownInMessagesIsShortValidText) {
  EXPECT_EQ(excerpt("plain é"), "plain é");
  EXPECT_EQ(excerpt("\xff\x01z"), "\uFFFD z");
  EXPECT_EQ(excerpt("\xc3"), "\uFFFD");
  EXPECT_EQ(excerpt("a\xc2\x9b"
                    "2J"),
            "a 2J");
  for (std::size_t before = 70; before < 90; ++before) {
    const std::string text = excerpt(std::string(before, 'x') + "éé€€🎉🎉");
    EXPECT_EQ(valid_utf8(text), text);
    EXPECT_EQ(text.find("\uFFFD"), std::string::npos) << text;
  }
  EXPECT_LT(excerpt(std::string(1'000, 'x')).size(), 100U);
}

}  // namespace
}  // namespace quad::server
