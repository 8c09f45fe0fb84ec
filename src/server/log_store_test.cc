#include "server/log_store.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "base/text.h"

namespace quad::server {
namespace {

const RankKey kRank{JobId(7), Epoch(1), Rank(0)};

class Logs : public testing::Test {
 protected:
  std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("quad-logs-" + random_hex(6));
  std::unique_ptr<LogStore> logs_ = std::make_unique<LogStore>(folder_);
  WallTime now_{1'000'000};

  void TearDown() override { std::filesystem::remove_all(folder_); }
  void restart() {
    logs_.reset();
    logs_ = std::make_unique<LogStore>(folder_);
  }
  std::string all() { return logs_->read(kRank, 0, 1U << 20U).value(); }
  std::string from(std::uint64_t offset, std::size_t limit = 1U << 20U) {
    return logs_->read(kRank, offset, limit).value();
  }
};

std::string numbered_lines(int count) {
  std::string text;
  for (int i = 1; i <= count; ++i) {
    text += "line " + std::to_string(i) + "\n";
  }
  return text;
}

TEST_F(Logs, AnyCuttingAndRepeatingGivesTheSameBytes) {
  const std::string text = numbered_lines(20'000);
  for (unsigned seed = 1; seed <= 20; ++seed) {
    const RankKey key{JobId(seed), Epoch(1), Rank(0)};
    std::mt19937 random(seed);
    std::uint64_t acknowledged = 0;
    while (acknowledged < text.size()) {
      // A runner that reconnects sends again from somewhere before the last acknowledgement.
      const std::uint64_t back =
          random() % 4 == 0 ? std::min<std::uint64_t>(acknowledged, random() % 5'000) : 0;
      const std::uint64_t start = acknowledged - back;
      const std::size_t size = random() % 3 == 0 ? random() % 100'000 : random() % 900;
      acknowledged = logs_->append(key, start, std::string_view(text).substr(start, size), now_);
      now_.millis += static_cast<std::int64_t>(random() % 50);
      if (random() % 40 == 0) {
        restart();
        EXPECT_EQ(logs_->end(key), acknowledged) << "seed " << seed;
      }
    }
    EXPECT_EQ(logs_->read(key, 0, 1U << 20U).value(), text) << "seed " << seed;
  }
}

TEST_F(Logs, EveryLineIsFoundByItsNumber) {
  const std::string text = numbered_lines(3'000);
  std::mt19937 random(5);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = 1 + random() % 400;
    at = logs_->append(kRank, at, std::string_view(text).substr(at, size), now_);
    now_.millis +=
        150;  // an index entry for nearly each piece, most of them in the middle of a line
  }
  for (int line = 1; line <= 3'000; ++line) {
    const std::string expected = "line " + std::to_string(line) + "\n";
    EXPECT_EQ(from(logs_->seek_line(kRank, static_cast<std::uint64_t>(line)), expected.size()),
              expected);
  }
  EXPECT_EQ(logs_->seek_line(kRank, 0), 0U);
  EXPECT_EQ(logs_->seek_line(kRank, 3'002), text.size());
}

TEST_F(Logs, SeekingATimeLeavesOutNothingOfThatTimeOrLater) {
  std::uint64_t end = 0;
  std::vector<std::pair<WallTime, std::uint64_t>> written;
  for (int i = 0; i < 500; ++i) {
    written.emplace_back(now_, end);
    end = logs_->append(kRank, end, "a line\n", now_);
    now_.millis += 37;
  }
  for (const auto& [time, offset] : written) {
    const std::uint64_t found = logs_->seek_time(kRank, time);
    EXPECT_LE(found, offset) << "left out a line of " << time.millis;
    EXPECT_GE(found + 7 * 20, offset) << "went back too far";
  }
  EXPECT_EQ(logs_->seek_time(kRank, WallTime{0}), 0U);
  EXPECT_EQ(logs_->seek_time(kRank, WallTime{now_.millis + 10'000}), end);
}

TEST_F(Logs, AShortLogNeedsNoIndexAndIsFoundByTimeAllTheSame) {
  now_ = SystemClock().now().wall;
  logs_->append(kRank, 0, "one\n", now_);
  logs_->append(kRank, 4, "two\n", now_);
  EXPECT_FALSE(std::filesystem::exists(logs_->file(kRank, ".idx")));
  EXPECT_EQ(logs_->seek_time(kRank, now_), 0U);
  EXPECT_EQ(logs_->seek_time(kRank, WallTime{now_.millis + 60'000}), 8U);
  restart();
  EXPECT_EQ(logs_->end(kRank), 8U);
  EXPECT_EQ(logs_->append(kRank, 8, "three\n", WallTime{now_.millis + 5'000}), 14U);
  EXPECT_EQ(logs_->seek_time(kRank, WallTime{now_.millis - 1'000}), 0U)
      << "left out what came before the first mark";
}

TEST_F(Logs, ARankThatPrintsNothingHasNoFiles) {
  EXPECT_EQ(logs_->end(kRank), 0U);
  EXPECT_FALSE(std::filesystem::exists(logs_->file(kRank).parent_path()));
}

TEST_F(Logs, TheTailIsTheLastLines) {
  const std::string text = numbered_lines(30'000);
  logs_->append(kRank, 0, text, now_);
  EXPECT_EQ(from(logs_->tail(kRank, 1)), "line 30000\n");
  EXPECT_EQ(from(logs_->tail(kRank, 2)), "line 29999\nline 30000\n");
  EXPECT_EQ(from(logs_->tail(kRank, 30'000)), text);
  EXPECT_EQ(from(logs_->tail(kRank, 1'000'000)), text);
  EXPECT_EQ(from(logs_->tail(kRank, 0)), "");
}

TEST_F(Logs, TheTailOfALogThatCameInPiecesIsTheSameBeforeAndAfterARestart) {
  const std::string text = numbered_lines(5'000) + "and no end";
  std::mt19937 random(9);
  for (std::size_t at = 0; at < text.size();) {
    at = logs_->append(kRank, at, std::string_view(text).substr(at, 1 + random() % 900), now_);
    now_.millis += 90;
  }
  for (const bool again : {false, true}) {
    for (std::uint64_t lines = 1; lines < 5'010; lines += 1 + random() % 40) {
      std::size_t at = text.size();
      for (std::uint64_t i = 0; i < lines && at != std::string::npos; ++i) {
        at = at == 0 ? std::string::npos : text.rfind('\n', at - 1);
      }
      const std::uint64_t expected = at == std::string::npos ? 0 : at + 1;
      ASSERT_EQ(logs_->tail(kRank, lines), expected) << lines << " lines, again: " << again;
    }
    restart();
  }
}

TEST_F(Logs, TheTailIsFoundThroughTheIndexAndNotByReadingWhatLiesBetween) {
  const std::string text = numbered_lines(50'000);
  for (std::size_t at = 0; at < text.size(); now_.millis += 250) {
    at = logs_->append(kRank, at, std::string_view(text).substr(at, 4'096), now_);
  }
  // Whoever counted the lines of the whole file would now come to other places.
  std::FILE* file = std::fopen(logs_->file(kRank).c_str(), "r+");
  ASSERT_NE(file, nullptr);
  const std::string other(text.size() - 200'000, '\n');
  ASSERT_EQ(std::fseek(file, 100'000, SEEK_SET), 0);
  ASSERT_EQ(std::fwrite(other.data(), 1, other.size(), file), other.size());
  std::fclose(file);
  for (const bool again : {false, true}) {
    EXPECT_EQ(from(logs_->tail(kRank, 1)), "line 50000\n") << again;
    EXPECT_EQ(from(logs_->tail(kRank, 49'999), 14), "line 2\nline 3\n") << again;
    EXPECT_EQ(logs_->tail(kRank, UINT64_MAX), 0U) << again;
    restart();
  }
}

TEST_F(Logs, AnIndexThatIsAheadOfItsLogIsReadAsFarAsThatGoes) {
  const std::string text = numbered_lines(1'000);
  for (std::size_t at = 0; at < text.size(); now_.millis += 250) {
    at = logs_->append(kRank, at, std::string_view(text).substr(at, 500), now_);
  }
  const std::size_t kept = text.find("line 701\n");
  logs_.reset();
  std::filesystem::resize_file(folder_ / "7/1/0.log", kept);  // as a power cut may leave it
  logs_ = std::make_unique<LogStore>(folder_);
  EXPECT_EQ(from(logs_->tail(kRank, 2)), "line 699\nline 700\n");
  EXPECT_EQ(logs_->end(kRank), kept);
}

TEST_F(Logs, ALineWithoutItsEndIsALineOfTheTail) {
  logs_->append(kRank, 0, "one\ntwo\nthr", now_);
  EXPECT_EQ(from(logs_->tail(kRank, 1)), "thr");
  EXPECT_EQ(from(logs_->tail(kRank, 2)), "two\nthr");
}

TEST_F(Logs, AGapIsMarkedOnceAndOffsetsGoOnBehindIt) {
  logs_->append(kRank, 0, "before\n", now_);
  logs_->gap(kRank, 7, 1'007, now_);
  logs_->gap(kRank, 7, 1'007, now_);
  EXPECT_EQ(logs_->end(kRank), 1'007U);
  EXPECT_EQ(logs_->append(kRank, 1'007, "after\n", now_), 1'013U);
  const std::string text = all();
  EXPECT_EQ(text.find("before\n"), 0U);
  EXPECT_EQ(text.substr(text.size() - 6), "after\n");
  const std::size_t mark = text.find("[quad: 1000 bytes were lost here");
  ASSERT_NE(mark, std::string::npos) << text;
  EXPECT_EQ(text.find("[quad:", mark + 1), std::string::npos) << text;
}

TEST_F(Logs, OffsetsBehindAGapSurviveARestart) {
  logs_->append(kRank, 0, "before\n", now_);
  logs_->gap(kRank, 7, 1'007, now_);
  logs_->append(kRank, 1'007, "after\n", now_);
  restart();
  EXPECT_EQ(logs_->end(kRank), 1'013U);
  EXPECT_EQ(logs_->append(kRank, 1'007, "after\nmore\n", now_), 1'018U);
  EXPECT_EQ(all().substr(all().size() - 11), "after\nmore\n");
}

TEST_F(Logs, BytesThatSkipAheadAreTakenWithAMark) {
  logs_->append(kRank, 0, "before\n", now_);
  EXPECT_EQ(logs_->append(kRank, 107, "after\n", now_), 113U);
  EXPECT_NE(all().find("[quad: 100 bytes were lost here"), std::string::npos);
}

TEST_F(Logs, ManyMoreRanksThanDescriptorsKeepTheirBytesApart) {
  for (int round = 0; round < 3; ++round) {
    for (int rank = 0; rank < 600; ++rank) {
      const RankKey key{JobId(1), Epoch(1), Rank(rank)};
      const std::string piece = "rank " + std::to_string(rank) + "\n";
      EXPECT_EQ(logs_->append(key, piece.size() * static_cast<std::size_t>(round), piece, now_),
                piece.size() * static_cast<std::size_t>(round + 1));
    }
  }
  for (int rank = 0; rank < 600; rank += 97) {
    const std::string piece = "rank " + std::to_string(rank) + "\n";
    EXPECT_EQ(logs_->read({JobId(1), Epoch(1), Rank(rank)}, 0, 1'000).value(),
              piece + piece + piece);
  }
}

TEST_F(Logs, AFollowerIsWokenByEachAppendUntilItLeaves) {
  int woken = 0;
  const std::uint64_t watcher = logs_->watch(kRank, [&] { ++woken; });
  logs_->append(kRank, 0, "one\n", now_);
  logs_->append(kRank, 4, "two\n", now_);
  EXPECT_EQ(woken, 2);
  logs_->append(kRank, 0, "one\n", now_);  // nothing new
  EXPECT_EQ(woken, 2);
  logs_->unwatch(kRank, watcher);
  logs_->append(kRank, 8, "three\n", now_);
  EXPECT_EQ(woken, 2);
}

TEST_F(Logs, ARankThatWroteNothingReadsAsEmpty) {
  EXPECT_EQ(logs_->size(kRank), 0U);
  EXPECT_EQ(all(), "");
  EXPECT_EQ(logs_->tail(kRank, 10), 0U);
  EXPECT_EQ(logs_->seek_line(kRank, 5), 0U);
  EXPECT_EQ(logs_->seek_time(kRank, now_), 0U);
}

}  // namespace
}  // namespace quad::server
