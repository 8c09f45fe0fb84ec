#include "cli/log_frames.h"

#include <gtest/gtest.h>

#include <vector>

namespace quad::cli {
namespace {

const std::string kStream =
    "{\"type\":\"attempt\",\"attempt\":1,\"before\":null,\"places\":[[0,0],[1,40]]}\n"
    "{\"type\":\"output\",\"attempt\":1,\"rank\":0,\"prefix\":\"\",\"next\":7,\"bytes\":7}\n"
    "a\n{}\n\xff\n"
    "{\"type\":\"output\",\"attempt\":1,\"rank\":1,\"prefix\":\"\",\"next\":40,\"bytes\":0}\n"
    "{\"type\":\"end\"}\n";

struct Seen {
  std::vector<std::string> types;
  std::string bytes;
};

LogFrames::Sink into(Seen& seen) {
  return [&seen](const json::object& head, std::string_view bytes) {
    seen.types.emplace_back(get_string(head, "type"));
    seen.bytes += bytes;
    return true;
  };
}

TEST(LogFrames, GivesWholeFramesHoweverTheyAreCut) {
  for (std::size_t first = 0; first <= kStream.size(); ++first) {
    for (const std::size_t step : {std::size_t{1}, std::size_t{7}, kStream.size()}) {
      Seen seen;
      LogFrames frames;
      ASSERT_TRUE(frames.feed(std::string_view(kStream).substr(0, first), into(seen)).ok());
      for (std::size_t at = first; at < kStream.size(); at += step) {
        ASSERT_TRUE(frames.feed(std::string_view(kStream).substr(at, step), into(seen)).ok());
      }
      EXPECT_EQ(seen.types, (std::vector<std::string>{"attempt", "output", "end"}));
      EXPECT_EQ(seen.bytes, "a\n{}\n\xff\n");
    }
  }
}

TEST(LogFrames, KeepsBackAFrameThatBrokeOff) {
  const std::size_t body = kStream.find("a\n{}");
  Seen seen;
  LogFrames frames;
  ASSERT_TRUE(frames.feed(std::string_view(kStream).substr(0, body + 6), into(seen)).ok());
  EXPECT_EQ(seen.types, std::vector<std::string>{"attempt"});
  EXPECT_EQ(seen.bytes, "");
}

TEST(LogFrames, RefusesWhatIsNoFrame) {
  Seen seen;
  EXPECT_FALSE(LogFrames().feed("hello\n", into(seen)).ok());
  EXPECT_FALSE(LogFrames().feed(std::string(3U << 20U, 'x'), into(seen)).ok());
  EXPECT_FALSE(LogFrames().feed("{\"type\":\"output\",\"bytes\":-1}\n", into(seen)).ok());
  EXPECT_FALSE(LogFrames().feed("{\"type\":\"output\",\"bytes\":9000000000}\n", into(seen)).ok());
}

TEST(LogFrames, StopsWhenNobodyReads) {
  const auto more =
      LogFrames().feed(kStream, [](const json::object&, std::string_view) { return false; });
  ASSERT_TRUE(more.ok());
  EXPECT_FALSE(*more);
}

TEST(LogPlace, IsWhereEachRankGoesOn) {
  LogPlace place;
  EXPECT_FALSE(place.known());
  LogFrames frames;
  ASSERT_TRUE(frames
                  .feed(kStream,
                        [&place](const json::object& head, std::string_view) {
                          if (get_string(head, "type") == "attempt") {
                            place.see_attempt(head);
                          } else if (get_string(head, "type") == "output") {
                            place.see_output(head);
                          }
                          return true;
                        })
                  .ok());
  EXPECT_TRUE(place.known());
  EXPECT_EQ(place.text(), "1:0=7,1=40");
  place.see_attempt(parse_json_object(R"({"attempt": 2, "places": [[0, 0], [1, 0]]})").value());
  EXPECT_EQ(place.text(), "2:");
}

}  // namespace
}  // namespace quad::cli
