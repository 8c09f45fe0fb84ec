#include "engine/kubernetes/client/mirror.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quad::kubernetes {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

json::object pod(std::string_view name, std::string_view uid, std::string_view version,
                 std::string_view phase) {
  return {{"metadata",
           json::object{
               {"namespace", "train"}, {"name", name}, {"uid", uid}, {"resourceVersion", version}}},
          {"phase", phase}};
}

class MirrorTest : public testing::Test {
 protected:
  /// What was told since the last look: "added a running".
  std::vector<std::string> news() { return std::exchange(told_, {}); }

  std::vector<std::string> told_;
  Mirror<std::string> mirror_{
      [](const json::object& object) -> std::optional<std::string> {
        const auto phase = get_string(object, "phase");
        return phase == "hidden" ? std::nullopt : std::optional<std::string>(phase);
      },
      [this](Change<std::string> change) {
        const auto* kind = change.kind == ChangeKind::kAdded     ? "added"
                           : change.kind == ChangeKind::kChanged ? "changed"
                                                                 : "removed";
        told_.push_back(fmt::format("{} {}/{} {} {}", kind, change.name_space, change.name,
                                    change.uid, change.value));
      }};
};

TEST_F(MirrorTest, TellsEachChangeOnce) {
  mirror_.list_begins();
  mirror_.present(pod("a", "u1", "5", "running"));
  mirror_.list_ends();
  EXPECT_THAT(news(), ElementsAre("added train/a u1 running"));
  mirror_.present(pod("a", "u1", "5", "running"));
  EXPECT_THAT(news(), IsEmpty()) << "an event that the list had";
  mirror_.present(pod("a", "u1", "6", "ended"));
  EXPECT_THAT(news(), ElementsAre("changed train/a u1 ended"));
  mirror_.present(pod("a", "u1", "7", "ended"));
  EXPECT_THAT(news(), IsEmpty()) << "nothing of interest changed";
  mirror_.removed(pod("a", "u1", "8", "ended"));
  mirror_.removed(pod("a", "u1", "8", "ended"));
  EXPECT_THAT(news(), ElementsAre("removed train/a u1 ended"));
  EXPECT_EQ(mirror_.size(), 0U);
}

TEST_F(MirrorTest, ALaterListRemovesWhatItLacks) {
  mirror_.list_begins();
  mirror_.present(pod("a", "u1", "1", "running"));
  mirror_.present(pod("b", "u2", "2", "running"));
  mirror_.present(pod("c", "u3", "3", "running"));
  mirror_.list_ends();
  (void)news();
  mirror_.list_begins();
  mirror_.present(pod("b", "u2", "9", "ended"));
  mirror_.present(pod("d", "u4", "10", "running"));
  mirror_.list_ends();
  EXPECT_THAT(news(),
              UnorderedElementsAre("changed train/b u2 ended", "added train/d u4 running",
                                   "removed train/a u1 running", "removed train/c u3 running"));
}

TEST_F(MirrorTest, AListThatDidNotEndRemovesNothing) {
  mirror_.list_begins();
  mirror_.present(pod("a", "u1", "1", "running"));
  mirror_.present(pod("b", "u2", "2", "running"));
  mirror_.list_ends();
  mirror_.list_begins();
  mirror_.present(pod("a", "u1", "1", "running"));
  (void)news();
  mirror_.list_begins();  // in its place
  mirror_.present(pod("b", "u2", "2", "running"));
  EXPECT_THAT(news(), IsEmpty());
  mirror_.list_ends();
  EXPECT_THAT(news(), ElementsAre("removed train/a u1 running"));
}

TEST_F(MirrorTest, AnotherObjectOfTheSameNameIsAnotherObject) {
  mirror_.list_begins();
  mirror_.present(pod("a", "u1", "1", "running"));
  mirror_.list_ends();
  (void)news();
  mirror_.list_begins();
  mirror_.present(pod("a", "u2", "9", "running"));
  mirror_.list_ends();
  EXPECT_THAT(news(), ElementsAre("removed train/a u1 running", "added train/a u2 running"));
  mirror_.removed(pod("a", "u1", "8", "running"));
  EXPECT_THAT(news(), IsEmpty()) << "the old one's end is told already";
}

TEST_F(MirrorTest, WhatDoesNotMatterIsNotThere) {
  mirror_.present(pod("a", "u1", "1", "hidden"));
  EXPECT_THAT(news(), IsEmpty());
  mirror_.present(pod("a", "u1", "2", "running"));
  mirror_.present(pod("a", "u1", "3", "hidden"));
  EXPECT_THAT(news(), ElementsAre("added train/a u1 running", "removed train/a u1 running"));
  EXPECT_EQ(mirror_.size(), 0U);
}

TEST_F(MirrorTest, TheLastStateComesWithTheRemoval) {
  mirror_.present(pod("a", "u1", "1", "running"));
  (void)news();
  mirror_.removed(pod("a", "u1", "2", "failed"));
  EXPECT_THAT(news(), ElementsAre("removed train/a u1 failed"));
}

}  // namespace
}  // namespace quad::kubernetes
