#include "server/report_share.h"

#include <gtest/gtest.h>

namespace quad::server {
namespace {

using Answer = ReportShare::Answer;
using Kind = ReportShare::Kind;

TEST(ReportShare, TheReportsOfOneJobTakeABoundedPartOfTheRecords) {
  ReportShare share;
  const auto flood = [&](Kind kind, std::size_t bytes) {
    std::size_t recorded = 0;
    int told = 0;
    for (int i = 0; i < 100'000; ++i) {
      const Answer answer = share.take(JobId(1), 1, kind, bytes);
      recorded += answer == Answer::kRecord ? bytes : 0;
      told += answer == Answer::kTellOnce ? 1 : 0;
    }
    EXPECT_EQ(told, 1) << "the first that is too much is told";
    EXPECT_EQ(share.take(JobId(1), 1, kind, bytes), Answer::kDrop);
    return recorded;
  };
  EXPECT_LT(flood(Kind::kNote, 2'000), 2U << 20U);
  EXPECT_LT(flood(Kind::kCheckpoint, 4'000), 64U << 20U);
  EXPECT_EQ(share.take(JobId(2), 1, Kind::kNote, 2'000), Answer::kRecord) << "another job's";
}

TEST(ReportShare, AJobOfManyRanksMayNoteMore) {
  EXPECT_GT(ReportShare::most_note_bytes(1'000), 1'000 * 8'000);
}

TEST(ReportShare, AJobThatIsOverIsForgotten) {
  ReportShare share;
  (void)share.take(JobId(1), 1, Kind::kNote, 1);
  EXPECT_EQ(share.jobs(), 1U);
  share.forget(JobId(1));
  EXPECT_EQ(share.jobs(), 0U);
}

}  // namespace
}  // namespace quad::server
