#include "engine/local/rank_folder.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>

#include "base/file.h"

namespace quad::engine {
namespace {

namespace fs = std::filesystem;

class RankFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "quad-folder-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    std::error_code failure;
    fs::remove_all(folder_, failure);
  }
  StartRecord::State state() const {
    const auto record = read_start_record(folder_, "this-boot");
    EXPECT_TRUE(record.ok());
    return record.ok() ? record->state : StartRecord::State::kNotStarted;
  }

  fs::path folder_;
};

TEST(RankKeyName, IsReadAsItIsWritten) {
  const RankKey key{JobId(17), Epoch(2), Rank(0)};
  EXPECT_EQ(parse_rank_key(to_string(key)), key);
  for (const char* name : {"", "17", "17-2", "17-2-0-1", "17-2-", "17--0", "017-2-0", "a-b-c",
                           "17-2-0 ", "17-2-4294967296", "99999999999999999999-1-1", "state"}) {
    EXPECT_FALSE(parse_rank_key(name)) << name;
  }
}

TEST_F(RankFolder, TellsTheThreeStatesOfAStartApart) {
  EXPECT_EQ(state(), StartRecord::State::kNotStarted);
  auto lock = create_start_record(folder_, "this-boot");
  ASSERT_TRUE(lock.ok());
  EXPECT_EQ(state(), StartRecord::State::kStarting);
  EXPECT_EQ(create_start_record(folder_, "this-boot").error().code, ErrorCode::kUnavailable);
  const std::string stat = read_file("/proc/self/stat").value_or("");
  // A line that is cut off is no line.
  ASSERT_TRUE(write_all(lock->get(), stat.substr(0, stat.size() - 1)).ok());
  EXPECT_EQ(state(), StartRecord::State::kStarting);
  ASSERT_TRUE(write_all(lock->get(), "\n").ok());
  EXPECT_EQ(state(), StartRecord::State::kStarted);
  lock->reset();
  const auto record = read_start_record(folder_, "this-boot");
  ASSERT_TRUE(record.ok());
  EXPECT_EQ(record->process.pid, ::getpid());
  EXPECT_TRUE(record->this_boot);
  EXPECT_FALSE(read_start_record(folder_, "next-boot")->this_boot);
  EXPECT_EQ(create_start_record(folder_, "this-boot").error().code, ErrorCode::kExists);
}

TEST_F(RankFolder, ForgetsAStartThatCameToNothing) {
  auto lock = create_start_record(folder_, "this-boot");
  ASSERT_TRUE(lock.ok());
  lock->reset();  // as when the server is killed here
  EXPECT_EQ(state(), StartRecord::State::kNotStarted);
  EXPECT_TRUE(create_start_record(folder_, "this-boot").ok());
}

TEST_F(RankFolder, RemembersTheCpusOfItsRank) {
  StartFile start;
  start.cpus = {2, 5};
  ASSERT_TRUE(prepare_rank_folder(folder_, start).ok());
  EXPECT_EQ(read_cpus(folder_), (std::vector<int>{2, 5}));
  EXPECT_TRUE(read_cpus(folder_ / "no-such-folder").empty());
}

TEST_F(RankFolder, BelievesControlGroupsOfItsOwnNameOnly) {
  const RankKey key{JobId(17), Epoch(2), Rank(0)};
  EXPECT_TRUE(read_control_groups(folder_, key).empty());
  const UniqueFd fd(::open((folder_ / "cgroup").c_str(), O_WRONLY | O_CREAT, 0600));
  ASSERT_TRUE(write_all(fd.get(),
                        "/groups/memory/quad-17-2-0-ab12\n/groups/quad-17-2-01-ab12\n"
                        "/etc\n/groups/pids/quad-17-2-0-ab12\n\n")
                  .ok());
  EXPECT_EQ(
      read_control_groups(folder_, key),
      (std::vector<fs::path>{"/groups/memory/quad-17-2-0-ab12", "/groups/pids/quad-17-2-0-ab12"}));
}

TEST_F(RankFolder, SaysWhichFileCannotBeWritten) {
  const auto refused = create_start_record(folder_ / "no-such-folder", "this-boot");
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("no-such-folder/started"), std::string::npos);
  EXPECT_FALSE(prepare_rank_folder(folder_ / "a/b", {}).ok());
}

}  // namespace
}  // namespace quad::engine
