#include "server/log_reader.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/text.h"

namespace quad::server {
namespace {

TEST(LogCursors, AreReadStrictly) {
  const auto cursor = parse_log_cursor("2:0=1234,13=880");
  ASSERT_TRUE(cursor);
  EXPECT_EQ(cursor->attempt, Epoch(2));
  EXPECT_EQ(cursor->offsets, (std::map<std::int32_t, std::uint64_t>{{0, 1234}, {13, 880}}));
  ASSERT_TRUE(parse_log_cursor("1:"));
  EXPECT_TRUE(parse_log_cursor("1:")->offsets.empty());
  ASSERT_TRUE(parse_log_cursor("start"));
  EXPECT_EQ(parse_log_cursor("start")->attempt, Epoch(0));
  for (const char* bad :
       {"", "1", ":", "0:", "x:0=1", "1:0", "1:0=", "1:=1", "1:0=-1", "1:-1=0", "1:0=1,",
        "1:0=1;1=2", "1:5,5", "Start", "99999999999:", "1:0=99999999999999999999"}) {
    EXPECT_FALSE(parse_log_cursor(bad)) << bad;
  }
}

class Reading : public testing::Test {
 protected:
  std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("quad-log-reader-" + random_hex(6));
  LogStore logs_{folder_};
  job::Job job_;
  MonoTime now_{1'000};

  Reading() {
    job_.id = JobId(7);
    job::Attempt attempt;
    attempt.epoch = Epoch(1);
    attempt.ranks.resize(2);
    attempt.ranks[1].address = "127.64.0.2";
    job_.attempts.push_back(attempt);
  }
  ~Reading() override { std::filesystem::remove_all(folder_); }

  void write(int rank, std::uint64_t offset, std::string_view bytes, std::int64_t at_ms = 1) {
    logs_.append({job_.id, Epoch(1), Rank(rank)}, offset, bytes, WallTime{at_ms});
  }
  /// What a reader gives, piece by piece, up to what is not yet a whole line.
  std::string read(LogReader& reader, bool last = false) const {
    std::string all;
    std::vector<LogReader::Piece> pieces;
    while (reader.next(job_, now_, last, pieces)) {
    }
    for (const auto& piece : pieces) {
      all += piece.prefix + "<" + piece.text + ">";
    }
    return all;
  }
};

TEST_F(Reading, GoesOnWhereItWasWithALineThatWasNotYetWhole) {
  write(0, 0, "one\ntw");
  write(1, 0, "eins\n");
  LogReader first(logs_, {});
  first.begin(job_, Epoch(1), true);
  EXPECT_EQ(read(first), "(head, rank=0) <one\n>(worker1, rank=1, ip=127.64.0.2) <eins\n>");
  LogWanted again;
  again.from = LogCursor{Epoch(1), {}};
  for (const auto& [rank, offset] : first.places()) {
    again.from->offsets[rank.value()] = offset;
  }
  EXPECT_EQ(again.from->offsets, (std::map<std::int32_t, std::uint64_t>{{0, 4}, {1, 5}}));
  write(0, 6, "o\nthree\n");
  LogReader second(logs_, again);
  second.begin(job_, Epoch(1), true);
  EXPECT_EQ(read(second), "(head, rank=0) <two\nthree\n>");
  // Of the next attempt everything counts.
  EXPECT_EQ(second.places().front().second, 14U);
}

TEST_F(Reading, OneRankAloneIsGivenAsItCame) {
  write(0, 0, "one\ntw");
  LogWanted wanted;
  wanted.rank = Rank(0);
  LogReader reader(logs_, wanted);
  reader.begin(job_, Epoch(1), true);
  EXPECT_EQ(read(reader), "<one\ntw>");
  EXPECT_EQ(reader.places(), (std::vector<std::pair<Rank, std::uint64_t>>{{Rank(0), 6}}));
}

TEST_F(Reading, APlaceBeyondTheEndWaitsForIt) {
  write(0, 0, "one\n");
  LogWanted wanted;
  wanted.from = LogCursor{Epoch(1), {{0, 4}}};
  LogReader reader(logs_, wanted);
  reader.begin(job_, Epoch(1), true);
  EXPECT_EQ(read(reader), "");
  write(0, 4, "two\n");
  EXPECT_EQ(read(reader), "(head, rank=0) <two\n>");
}

TEST_F(Reading, TheLastLineNeedsNoEndOnceAllIsOver) {
  write(0, 0, "one\ntwo");
  LogWanted wanted;
  wanted.grep = "tw";
  LogReader reader(logs_, wanted);
  reader.begin(job_, Epoch(1), true);
  EXPECT_EQ(read(reader), "");
  EXPECT_EQ(read(reader, true), "(head, rank=0) <two\n>");
}

TEST_F(Reading, SeveralRanksComeByTime) {
  std::string expected;
  for (int i = 0; i < 4; ++i) {
    for (const int rank : {0, 1}) {
      const std::string line = "t" + std::to_string(i) + "\n";
      write(rank, static_cast<std::uint64_t>(3 * i), line, 1'000 + 400 * i + 10 * rank);
      expected +=
          (rank == 0 ? "(head, rank=0) <" : "(worker1, rank=1, ip=127.64.0.2) <") + line + ">";
    }
  }
  LogReader reader(logs_, {});
  reader.begin(job_, Epoch(1), true);
  EXPECT_EQ(read(reader), expected);
  // So it is when the server has begun anew since.
  for (const int rank : {0, 1}) {
    logs_.close({job_.id, Epoch(1), Rank(rank)});
  }
  LogReader again(logs_, {});
  again.begin(job_, Epoch(1), true);
  EXPECT_EQ(read(again), expected);
}

TEST_F(Reading, ATailIsOfAllRanksTogether) {
  for (int i = 0; i < 4; ++i) {
    write(0, static_cast<std::uint64_t>(3 * i), "a" + std::to_string(i) + "\n", 1'000 + 400 * i);
  }
  write(1, 0, "b0\n", 2'300);
  LogWanted wanted;
  wanted.tail = 3;
  LogReader reader(logs_, wanted);
  reader.begin(job_, Epoch(1), true);
  EXPECT_EQ(read(reader), "(head, rank=0) <a2\na3\n>(worker1, rank=1, ip=127.64.0.2) <b0\n>");
  LogWanted none;
  none.tail = 0;
  LogReader nothing(logs_, none);
  nothing.begin(job_, Epoch(1), true);
  EXPECT_EQ(read(nothing), "");
}

TEST_F(Reading, AProgressBarIsSeenWhileItMoves) {
  LogReader reader(logs_, {});
  reader.begin(job_, Epoch(1), true);
  write(0, 0, "\r1/9");
  EXPECT_EQ(read(reader), "");
  EXPECT_EQ(reader.gives_rest_in(now_), Millis(200));
  write(0, 4, "\r2/9");
  EXPECT_EQ(read(reader), "(head, rank=0) <\r1/9>");
  now_ = now_ + Millis(250);
  EXPECT_EQ(reader.gives_rest_in(now_), Millis(0));
  EXPECT_EQ(read(reader), "(head, rank=0) <\r2/9>");
  EXPECT_FALSE(reader.gives_rest_in(now_));
  write(0, 8, "\r9/9\n");
  EXPECT_EQ(read(reader), "(head, rank=0) <\r9/9\n>");
}

}  // namespace
}  // namespace quad::server
