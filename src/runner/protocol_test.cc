#include "runner/protocol.h"

#include <gtest/gtest.h>

#include <string>

namespace quad::runner {
namespace {

TEST(Protocol, AFrameIsItsLengthItsTypeAndItsPayload) {
  const std::string frame = encode_frame(kJsonFrame, "abc");
  EXPECT_EQ(frame, std::string("\x03\0\0\0Jabc", 8));
}

TEST(Protocol, ALogFrameCarriesItsOffset) {
  const std::string frame = encode_log(0x0102030405ULL, "xy");
  FrameReader reader;
  reader.feed(frame);
  const auto view = reader.next_view();
  ASSERT_TRUE(view.ok() && view.value().has_value());
  const auto chunk = decode_log(view.value()->payload);
  ASSERT_TRUE(chunk.ok());
  EXPECT_EQ(chunk.value().offset, 0x0102030405ULL);
  EXPECT_EQ(chunk.value().bytes, "xy");
}

TEST(Protocol, AReaderFedByteByByteGivesTheSameFrames) {
  const std::string bytes =
      encode_message({{"type", "hello"}}) + encode_ack(77) + encode_log(5, "");
  FrameReader reader;
  std::string types;
  for (const char c : bytes) {
    reader.feed({&c, 1});
    for (;;) {
      auto frame = reader.next();
      ASSERT_TRUE(frame.ok());
      if (!frame.value().has_value()) {
        break;
      }
      types += frame.value()->type;
      if (frame.value()->type == kAckFrame) {
        EXPECT_EQ(decode_ack(frame.value()->payload).value(), 77U);
      }
    }
  }
  EXPECT_EQ(types, "JAL");
  EXPECT_EQ(reader.buffered(), 0U);
}

TEST(Protocol, AFrameThatIsTooLongIsRefusedBeforeItIsBuffered) {
  FrameReader reader;
  reader.feed(std::string("\x01\0\x40\0L", 5));
  EXPECT_FALSE(reader.next_view().ok());
}

TEST(Protocol, AFrameOfTheLargestSizeIsAccepted) {
  FrameReader reader;
  reader.feed(encode_frame(kLogFrame, std::string(kMaxPayload, 'x')));
  const auto view = reader.next_view();
  ASSERT_TRUE(view.ok() && view.value().has_value());
  EXPECT_EQ(view.value()->payload.size(), kMaxPayload);
}

TEST(Protocol, AnUnknownTypeIsRefused) {
  FrameReader reader;
  reader.feed(std::string("\0\0\0\0Z", 5));
  EXPECT_FALSE(reader.next_view().ok());
}

TEST(Protocol, PayloadsThatMakeNoSenseAreErrors) {
  EXPECT_FALSE(decode_log("1234567").ok());
  EXPECT_FALSE(decode_ack("123456789").ok());
  EXPECT_FALSE(decode_message("[]").ok());
  EXPECT_FALSE(decode_message("{\"no\": \"type\"}").ok());
}

TEST(Protocol, AReaderKeepsItsBufferSmallOverManyFrames) {
  FrameReader reader;
  const std::string frame = encode_log(0, std::string(1000, 'x'));
  std::size_t frames = 0;
  for (int i = 0; i < 10'000; ++i) {
    reader.feed(frame);
    while (reader.next_view().value().has_value()) {
      ++frames;
    }
  }
  EXPECT_EQ(frames, 10'000U);
  EXPECT_LT(reader.room_size(), 64U << 10U);
}

TEST(Protocol, AReaderGivesBackWhatAFloodTook) {
  FrameReader reader;
  reader.room(64U << 10U);
  EXPECT_GE(reader.room_size(), 64U << 10U);
  reader.feed(encode_frame(kJsonFrame, "{}"));
  ASSERT_TRUE(reader.next_view().value().has_value());
  reader.room(2U << 10U);
  EXPECT_LE(reader.room_size(), 8U << 10U);
}

}  // namespace
}  // namespace quad::runner
