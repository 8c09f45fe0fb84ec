#include "server/event_window.h"

#include <gtest/gtest.h>

namespace quad::server {
namespace {

store::EventFilter filter(std::optional<JobId> job, std::optional<std::string> node,
                          std::string kind) {
  store::EventFilter filter;
  filter.after = Revision(1'000);
  filter.job = job;
  filter.node = std::move(node);
  filter.kind_prefix = std::move(kind);
  return filter;
}

TEST(EventWindows, AreWholeOnlyWhereAnIndexFindsWhatMatches) {
  const Revision end(10'000'000);
  const auto until = [&](const store::EventFilter& asked) {
    return first_window(asked, end, 5'000).until->value();
  };
  EXPECT_EQ(until(filter({}, {}, "")), 6'000);
  EXPECT_EQ(until(filter({}, {}, "node.")), 6'000);
  EXPECT_EQ(until(filter({}, "gpu-1", "")), end.value());
  EXPECT_EQ(until(filter(JobId(7), {}, "")), end.value());
  EXPECT_EQ(until(filter(JobId(7), "gpu-1", "")), end.value());
  // A kind that hardly any event of a busy node or a long job has.
  EXPECT_EQ(until(filter({}, "gpu-1", "node.lost")), 6'000);
  EXPECT_EQ(until(filter(JobId(7), {}, "job.failed")), 6'000);
  // Events of no node: not in the index.
  EXPECT_EQ(until(filter({}, "", "")), 6'000);
}

TEST(EventWindows, EndWhereTheHistoryDoes) {
  const auto window = first_window(filter({}, {}, "node."), Revision(3'000), 5'000);
  EXPECT_EQ(window.until, Revision(3'000));
  EXPECT_EQ(window.after, Revision(1'000));
  EXPECT_EQ(window.kind_prefix, "node.");
  EXPECT_EQ(first_window(filter({}, {}, ""), Revision(10), INT64_MAX).until, Revision(10));
}

}  // namespace
}  // namespace quad::server
