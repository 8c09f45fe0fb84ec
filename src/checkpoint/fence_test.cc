#include "checkpoint/fence.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <thread>

#include "checkpoint/test_files.h"

namespace quad::checkpoint::test {
namespace {

std::optional<Fence> read(const Folder& job) {
  const auto fence = read_fence(job.path());
  EXPECT_TRUE(fence.ok());
  return fence.ok() ? *fence : std::nullopt;
}

ino_t inode_of(const fs::path& path) {
  struct stat info {};
  EXPECT_EQ(::stat(path.c_str(), &info), 0);
  return info.st_ino;
}

TEST(Fence, SaysWhatItWasRaisedTo) {
  const Folder job;
  EXPECT_FALSE(read(job));
  ASSERT_TRUE(raise_fence(job.path(), Epoch(1), WallTime{5000}).ok());
  EXPECT_EQ(read(job), (Fence{Epoch(1), WallTime{5000}}));
  ASSERT_TRUE(raise_fence(job.path(), Epoch(2), WallTime{6000}).ok());
  EXPECT_EQ(read(job), (Fence{Epoch(2), WallTime{6000}}));
}

TEST(Fence, IsOverwrittenInPlaceAndNeverGrows) {
  const Folder job;
  ASSERT_TRUE(raise_fence(job.path(), Epoch(1), WallTime{5000}).ok());
  const ino_t before = inode_of(job / "fence");
  const auto size = fs::file_size(job / "fence");
  ASSERT_TRUE(raise_fence(job.path(), Epoch(2147483647), WallTime{1800000000000}).ok());
  EXPECT_EQ(inode_of(job / "fence"), before);
  EXPECT_EQ(fs::file_size(job / "fence"), size);
  EXPECT_EQ(read(job)->epoch, Epoch(2147483647));
}

TEST(Fence, RefusesToGoBackAndAcceptsTheSameAgain) {
  const Folder job;
  ASSERT_TRUE(raise_fence(job.path(), Epoch(3), WallTime{5000}).ok());
  const Status back = raise_fence(job.path(), Epoch(2), WallTime{6000});
  ASSERT_FALSE(back.ok());
  EXPECT_EQ(back.error().code, ErrorCode::kExists);
  EXPECT_EQ(back.error().message, "Attempt 3 has taken over, so attempt 2 must leave");
  EXPECT_TRUE(raise_fence(job.path(), Epoch(3), WallTime{7000}).ok());
  EXPECT_EQ(read(job)->epoch, Epoch(3));
  EXPECT_FALSE(raise_fence(job.path(), Epoch(0), WallTime{7000}).ok());
}

TEST(Fence, TornAtAnyByteIsTheOldOneOrTheNewOneAndNothingElse) {
  const Folder job;
  ASSERT_TRUE(raise_fence(job.path(), Epoch(1), WallTime{1000}).ok());
  const std::string old_bytes = get(job / "fence");
  ASSERT_TRUE(raise_fence(job.path(), Epoch(29), WallTime{2000}).ok());
  const std::string new_bytes = get(job / "fence");
  for (std::size_t torn = 0; torn <= new_bytes.size(); ++torn) {
    put(job / "fence", new_bytes.substr(0, torn) + old_bytes.substr(torn));
    const auto fence = read(job);
    ASSERT_TRUE(fence) << torn;
    EXPECT_TRUE(fence->epoch == Epoch(1) || fence->epoch == Epoch(29)) << torn;
    // Once one copy of the new epoch is whole there is no way back.
    EXPECT_EQ(fence->epoch == Epoch(29),
              get(job / "fence").substr(0, 64) == new_bytes.substr(0, 64))
        << torn;
  }
}

TEST(Fence, OfForeignOrShortContentIsUnknown) {
  const Folder job;
  ASSERT_TRUE(raise_fence(job.path(), Epoch(7), WallTime{1000}).ok());
  const std::string good = get(job / "fence");
  for (std::size_t length = 0; length < 64; ++length) {
    put(job / "fence", good.substr(0, length));
    EXPECT_FALSE(read(job)) << length;
  }
  for (std::size_t i = 0; i < 64; ++i) {
    std::string bad = good.substr(0, 64);
    bad[i] = static_cast<char>(bad[i] ^ 1);
    put(job / "fence", bad);
    EXPECT_FALSE(read(job)) << i;
  }
  put(job / "fence", std::string(128, '\0'));
  EXPECT_FALSE(read(job));
  EXPECT_TRUE(raise_fence(job.path(), Epoch(8), WallTime{1000}).ok());
  EXPECT_EQ(read(job)->epoch, Epoch(8));
}

TEST(Fence, EndsAtTheHighestOfManyWriters) {
  const Folder job;
  std::vector<std::thread> writers;
  for (int writer = 0; writer < 4; ++writer) {
    writers.emplace_back([&job, writer] {
      for (int epoch = 1 + writer; epoch <= 40; epoch += 4) {
        (void)raise_fence(job.path(), Epoch(epoch), WallTime{epoch});
      }
    });
  }
  std::int32_t last = 0;
  for (int i = 0; i < 200; ++i) {
    const auto fence = read_fence(job.path());
    ASSERT_TRUE(fence.ok());
    if (*fence) {
      EXPECT_GE((*fence)->epoch.value(), last);
      last = (*fence)->epoch.value();
    }
  }
  for (std::thread& writer : writers) {
    writer.join();
  }
  EXPECT_EQ(read(job)->epoch, Epoch(40));
}

}  // namespace
}  // namespace quad::checkpoint::test
