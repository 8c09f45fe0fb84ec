#include "cli/follow.h"

#include <gtest/gtest.h>

namespace quad::cli {
namespace {

TEST(LogFrames, AreTheSameInWhateverPiecesTheyCome) {
  const std::string body = "1:4 5\na\nb\n\n1:9 0\n2:0,7 3\nxyz";
  for (std::size_t size = 1; size <= body.size(); ++size) {
    LogFrames frames;
    EXPECT_EQ(frames.cursor(), "start");
    std::string got;
    for (std::size_t at = 0; at < body.size(); at += size) {
      const auto more =
          frames.feed(std::string_view(body).substr(at, size), [&](std::string_view bytes) {
            got += bytes;
            return true;
          });
      ASSERT_TRUE(more.ok() && *more) << more.error().message;
    }
    EXPECT_EQ(got, "a\nb\n\nxyz") << "in pieces of " << size;
    EXPECT_EQ(frames.cursor(), "2:0,7");
  }
}

TEST(LogFrames, CountOnlyOnceTheyAreWhole) {
  LogFrames frames;
  std::string got;
  const auto sink = [&](std::string_view bytes) {
    got += bytes;
    return true;
  };
  ASSERT_TRUE(frames.feed("1:3 3\nabc1:9 6\nde", sink).ok());
  EXPECT_EQ(got, "abc");
  EXPECT_EQ(frames.cursor(), "1:3");
  frames.restart();
  ASSERT_TRUE(frames.feed("1:9 6\ndefghi", sink).ok());
  EXPECT_EQ(got, "abcdefghi");
}

TEST(LogFrames, RefuseWhatIsNone) {
  const auto sink = [](std::string_view) { return true; };
  for (const std::string_view text :
       {"hello\n", "1:3 \n", "1:3 -1\n", "1:3 9999999999999\n", "1:3 12x\n"}) {
    EXPECT_FALSE(LogFrames().feed(text, sink).ok()) << text;
  }
  EXPECT_FALSE(LogFrames().feed(std::string(2 << 20, 'x'), sink).ok());
}

}  // namespace
}  // namespace quad::cli
