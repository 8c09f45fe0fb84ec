#include "server/views.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace quad::server {
namespace {

job::Event complete(const std::string& path, std::int64_t step) {
  job::Event event;
  event.kind = "checkpoint.complete";
  event.epoch = Epoch(1);
  event.data = {{"path", path}, {"step", step}, {"bytes", 1}};
  return event;
}

job::Event gone(const std::string& path) {
  job::Event event;
  event.kind = "checkpoint.gone";
  event.epoch = Epoch(1);
  event.data = {{"paths", json::array{path}}};
  return event;
}

// "10, 20 gone, …"
std::string shown(const std::vector<job::Event>& events) {
  std::string text;
  for (const json::value& one : checkpoints_view(events)) {
    text += (text.empty() ? "" : ", ") + std::to_string(get_int(one.as_object(), "step"));
    text += get_bool(one.as_object(), "gone") ? " gone" : "";
  }
  return text;
}

TEST(CheckpointsView, MarksWhatWasDeleted) {
  EXPECT_EQ(shown({complete("a", 10), complete("b", 20), gone("a")}), "10 gone, 20");
}

TEST(CheckpointsView, ADeletionThatIsToldTwiceOrOfSomethingUnknownChangesNothing) {
  EXPECT_EQ(shown({complete("a", 10), gone("a"), gone("a"), gone("c")}), "10 gone");
}

TEST(CheckpointsView, WhatIsWrittenAgainIsThereAgain) {
  EXPECT_EQ(shown({complete("a", 10), gone("a"), complete("a", 10)}), "10 gone, 10");
}

TEST(CheckpointsView, OnlyTheNewestOfOnePathIsThere) {
  EXPECT_EQ(shown({complete("last.ckpt", 10), complete("last.ckpt", 20)}), "10 gone, 20");
}

}  // namespace
}  // namespace quad::server
