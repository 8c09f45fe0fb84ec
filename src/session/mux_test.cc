#include "session/mux.h"

#include <gtest/gtest.h>

#include <string>
#include <variant>
#include <vector>

namespace quad::session {
namespace {

constexpr std::uint32_t kSmall = 100;

/// Brings everything that `from` has to say to `to`; the first error ends it.
Status deliver(Mux& from, Mux& to, std::vector<Mux::Happening>* happenings = nullptr,
               std::string* bytes = nullptr) {
  runner::FrameReader frames(kFrames);
  frames.feed(from.outgoing());
  from.sent(from.outgoing().size());
  for (;;) {
    QUAD_ASSIGN(const auto frame, frames.next_view());
    if (!frame) {
      return {};
    }
    QUAD_ASSIGN(Mux::Happening happening, to.take(*frame));
    if (const auto* data = std::get_if<Mux::Data>(&happening); data != nullptr && bytes) {
      *bytes += data->bytes;
    }
    if (happenings != nullptr) {
      happenings->push_back(std::move(happening));
    }
  }
}

struct Ends {
  Mux here{kSmall};
  Mux there{kSmall};
  explicit Ends(StreamId id = 1) {
    here.open(id);
    there.open(id);
  }
};

TEST(Mux, CarriesBytesMessagesAndEndsInOrder) {
  Ends ends(7);
  ends.here.say({{"type", "begin"}});
  ends.here.send(7, std::string("a\0b", 3));
  ends.here.end(7);
  std::vector<Mux::Happening> seen;
  std::string bytes;
  ASSERT_TRUE(deliver(ends.here, ends.there, &seen, &bytes).ok());
  ASSERT_EQ(seen.size(), 3U);
  EXPECT_TRUE(std::holds_alternative<json::object>(seen[0]));
  EXPECT_EQ(bytes, std::string("a\0b", 3));
  ASSERT_TRUE(std::holds_alternative<Mux::Ended>(seen[2]));
  EXPECT_EQ(std::get<Mux::Ended>(seen[2]).id, 7U);
}

TEST(Mux, StopsAtTheWindowUntilTheReaderHasTaken) {
  Ends ends;
  EXPECT_EQ(ends.here.room(1), kSmall);
  ends.here.send(1, std::string(kSmall, 'x'));
  EXPECT_EQ(ends.here.room(1), 0U);
  ASSERT_TRUE(deliver(ends.here, ends.there).ok());
  ends.there.taken(1, kSmall / 2 - 1);
  ASSERT_TRUE(deliver(ends.there, ends.here).ok());
  EXPECT_EQ(ends.here.room(1), 0U) << "not for every byte";
  ends.there.taken(1, 1);
  ASSERT_TRUE(deliver(ends.there, ends.here).ok());
  EXPECT_EQ(ends.here.room(1), kSmall / 2);
}

TEST(Mux, WhoSendsBeyondTheWindowIsRefused) {
  Mux here(2 * kSmall);  // thinks that it may
  Mux there(kSmall);
  here.open(1);
  there.open(1);
  here.send(1, std::string(kSmall + 1, 'x'));
  const Status refused = deliver(here, there);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalid);
}

TEST(Mux, AWindowThatGrowsBeyondItsSizeIsRefused) {
  Ends ends;
  ends.there.taken(1, kSmall);  // of bytes that never came
  EXPECT_FALSE(deliver(ends.there, ends.here).ok());
}

TEST(Mux, FramesOfAStreamThatIsClosedChangeNothing) {
  Ends ends;
  ends.here.send(1, "late");
  ends.here.end(1);
  ends.there.close(1);
  std::vector<Mux::Happening> seen;
  ASSERT_TRUE(deliver(ends.here, ends.there, &seen).ok());
  for (const Mux::Happening& one : seen) {
    EXPECT_TRUE(std::holds_alternative<Mux::Nothing>(one));
  }
  EXPECT_EQ(ends.there.room(1), 0U);
}

TEST(Mux, ACutIsToldOnce) {
  Ends ends;
  ends.here.cut(1);
  std::vector<Mux::Happening> seen;
  ASSERT_TRUE(deliver(ends.here, ends.there, &seen).ok());
  ASSERT_EQ(seen.size(), 1U);
  EXPECT_TRUE(std::holds_alternative<Mux::Cut>(seen[0]));
  EXPECT_EQ(ends.there.room(1), 0U);
}

TEST(Mux, BrokenFramesAreErrors) {
  Mux mux(kSmall);
  mux.open(1);
  EXPECT_FALSE(mux.take({kDataFrame, "abc"}).ok());
  EXPECT_FALSE(mux.take({kWindowFrame, std::string("\1\0\0\0", 4)}).ok());
  EXPECT_FALSE(mux.take({runner::kJsonFrame, "[]"}).ok());
  runner::FrameReader frames(kFrames);
  frames.feed(runner::encode_frame('L', "x"));  // of the runner's other protocol
  EXPECT_FALSE(frames.next_view().ok());
}

}  // namespace
}  // namespace quad::session
