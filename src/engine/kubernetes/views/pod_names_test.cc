#include "engine/kubernetes/views/pod_names.h"

#include <gtest/gtest.h>

namespace quad::kubernetes {
namespace {

const RankKey kKey{JobId(17), Epoch(2), Rank(0)};

TEST(PodNames, AreMadeFromTheRank) {
  EXPECT_EQ(attempt_name("1a2b3c4d", JobId(17), Epoch(2)), "quad-1a2b3c4d-j17-e2");
  EXPECT_EQ(pod_name("1a2b3c4d", kKey), "quad-1a2b3c4d-j17-e2-r0");
  EXPECT_EQ(job_object_name("1a2b3c4d", JobId(17)), "quad-1a2b3c4d-j17");
}

TEST(PodNames, FitIntoADnsLabelForEveryRank) {
  const RankKey largest{JobId(999'999'999'999), Epoch(2'147'483'647), Rank(2'147'483'647)};
  EXPECT_LE(pod_name("1a2b3c4d", largest).size(), 63U);
  EXPECT_LE(rank_hostname(std::string(200, 'x'), largest).size(), 63U);
}

TEST(PodNames, OfHostsAreWhatTheJobIsCalled) {
  EXPECT_EQ(rank_hostname("train", kKey), "train-17-r0");
  EXPECT_EQ(rank_hostname("My_Training.v2", kKey), "my-training-v2-17-r0");
  EXPECT_EQ(rank_hostname("--__", kKey), "job-17-r0");
  EXPECT_EQ(rank_hostname("x" + std::string(80, '-') + "y", kKey), "x-y-17-r0");
}

TEST(Labels, OfARankAreReadBack) {
  json::object labels = identity_labels("1a2b3c4d", kKey);
  EXPECT_EQ(rank_of_labels(labels, "1a2b3c4d"), kKey);
  EXPECT_EQ(rank_of_labels(labels, "another"), std::nullopt);
  labels[kLabelRank] = "0x";
  EXPECT_EQ(rank_of_labels(labels, "1a2b3c4d"), std::nullopt);
  labels[kLabelRank] = "-1";
  EXPECT_EQ(rank_of_labels(labels, "1a2b3c4d"), std::nullopt);
  labels.erase(kLabelRank);
  EXPECT_EQ(rank_of_labels(labels, "1a2b3c4d"), std::nullopt);
}

TEST(FolderOfAUser, IsAnothersInNoSpelling) {
  EXPECT_EQ(folder_of_user("ana.b@example.edu"), "ana.b@example.edu");
  EXPECT_EQ(folder_of_user("Ana"), "%41na");
  EXPECT_EQ(folder_of_user("."), "%2e");
  EXPECT_EQ(folder_of_user(".."), "%2e.");
  EXPECT_EQ(folder_of_user(".quad"), "%2equad");
  EXPECT_EQ(folder_of_user("a/../b"), "a%2f..%2fb");
  EXPECT_EQ(folder_of_user("%41na"), "%2541na");
  EXPECT_EQ(folder_of_user("lost+found"), "lost%2bfound");
  EXPECT_EQ(folder_of_user(""), "%");
}

TEST(Labels, TakeWhatTheyMayOfAnyText) {
  EXPECT_EQ(label_value("ana@example.edu"), "ana_example.edu");
  EXPECT_EQ(label_value("--x--"), "x");
  EXPECT_EQ(label_value(std::string(100, 'x')).size(), 63U);
  EXPECT_EQ(label_value("!!"), "");
}

TEST(Labels, OfAUserAreChecked) {
  EXPECT_EQ(label_fault("team", "vision"), "");
  EXPECT_EQ(label_fault("example.edu/team", ""), "");
  EXPECT_NE(label_fault("quad.io/rank", "0").find("kept for Quad"), std::string::npos);
  EXPECT_NE(label_fault("a b", "x").find("no label's name"), std::string::npos);
  EXPECT_NE(label_fault("/x", "x").find("no label's name"), std::string::npos);
  EXPECT_NE(label_fault("team", "a b").find("'a b'"), std::string::npos);
}

}  // namespace
}  // namespace quad::kubernetes
