#include "runner/spool.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <string>

#include "base/text.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

class SpoolTest : public ::testing::Test {
 protected:
  SpoolTest() : folder_(fs::temp_directory_path() / ("quad-spool-" + random_hex(6))) {
    fs::create_directories(folder_);
  }
  ~SpoolTest() override { fs::remove_all(folder_); }

  // Numbered lines of 16 bytes, up to `bytes`.
  static std::string lines(std::size_t bytes, std::size_t first = 0) {
    std::string text;
    for (std::size_t i = first; text.size() < bytes; ++i) {
      std::string number = std::to_string(i);
      text += std::string(15 - number.size(), '0') + number + "\n";
    }
    return text;
  }

  static std::string everything(Spool& spool) {
    std::string text;
    std::vector<iovec> pieces;
    for (std::uint64_t at = spool.front(); at < spool.end();) {
      pieces.clear();
      at += spool.view(at, 100'000, pieces);
      for (const iovec& piece : pieces) {
        text.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
      }
    }
    return text;
  }

  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }

  fs::path folder_;
};

TEST_F(SpoolTest, WhatFitsInMemoryTouchesNoFile) {
  Spool spool(folder_, {});
  const std::string text = lines(1U << 20U);
  spool.append(text);
  EXPECT_EQ(files(), 0U);
  EXPECT_EQ(everything(spool), text);
}

TEST_F(SpoolTest, WhatDoesNotFitIsReadBackFromFilesWhole) {
  Spool spool(folder_, {.spool_bytes = 1U << 30U, .memory_bytes = 1U << 20U});
  const std::string text = lines(20U << 20U);
  spool.append(text);
  EXPECT_TRUE(spool.spilled());
  EXPECT_EQ(spool.front(), 0U);
  EXPECT_EQ(everything(spool), text);
}

TEST_F(SpoolTest, AcknowledgedSegmentsLeaveTheDisk) {
  Spool spool(folder_, {.spool_bytes = 1U << 30U, .memory_bytes = 1U << 20U});
  spool.append(lines(40U << 20U));
  const std::size_t before = files();
  ASSERT_GE(before, 4U);
  spool.acknowledge(20U << 20U);
  EXPECT_LT(files(), before);
  EXPECT_EQ(spool.front(), 20U << 20U);
  spool.acknowledge(spool.end());
  EXPECT_EQ(files(), 0U);
  spool.append("more\n");
  EXPECT_EQ(everything(spool), "more\n");
}

TEST_F(SpoolTest, PastTheBoundTheOldestLinesGoAndTheGapEndsAtALineStart) {
  Spool spool(folder_, {.spool_bytes = 4U << 20U, .memory_bytes = 1U << 20U});
  const std::string text = lines(16U << 20U) + "partial";
  spool.append(text);
  ASSERT_TRUE(spool.gap().has_value());
  EXPECT_EQ(spool.gap()->from, 0U);
  EXPECT_EQ(spool.gap()->to, spool.front());
  EXPECT_EQ(spool.front() % 16, 0U);
  EXPECT_LE(spool.end() - spool.front(), 4U << 20U);
  EXPECT_GE(spool.end() - spool.front(), 3U << 20U);
  EXPECT_EQ(everything(spool), text.substr(spool.front()));
}

TEST_F(SpoolTest, AGapIsForgottenOnceWhatFollowsIsAcknowledged) {
  Spool spool(folder_, {.spool_bytes = 1U << 20U, .memory_bytes = 1U << 20U});
  spool.append(lines(3U << 20U));
  ASSERT_TRUE(spool.gap().has_value());
  spool.acknowledge(spool.gap()->to);
  EXPECT_FALSE(spool.gap().has_value());
}

TEST_F(SpoolTest, AnAcknowledgementBeyondTheEndIsNotBelieved) {
  Spool spool(folder_, {});
  spool.append("abc");
  spool.acknowledge(1'000'000);
  EXPECT_EQ(spool.front(), 3U);
  spool.append("def");
  EXPECT_EQ(everything(spool), "def");
}

TEST_F(SpoolTest, AFullDiskKeepsTheNewestInMemory) {
  // Files may not grow past 100 KB in this process: what a full disk looks like from here.
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{100'000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  Spool spool(folder_, {.spool_bytes = 1U << 30U, .memory_bytes = 1U << 20U});
  const std::string text = lines(8U << 20U);
  spool.append(text);
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_FALSE(spool.trouble().empty());
  ASSERT_TRUE(spool.gap().has_value());
  EXPECT_EQ(spool.front() % 16, 0U);
  EXPECT_GE(spool.end() - spool.front(), 512U << 10U);
  EXPECT_EQ(everything(spool), text.substr(spool.front()));
}

}  // namespace
}  // namespace quad::runner
