#include "base/data_dir.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/file.h"
#include "base/text.h"

namespace quad {
namespace {

namespace fs = std::filesystem;

class DataDir : public testing::Test {
 protected:
  DataDir() : top_(fs::canonical(fs::temp_directory_path()) / ("quad-data-" + random_hex(6))) {
    fs::create_directories(top_);
  }
  ~DataDir() override { fs::remove_all(top_); }

  fs::path folder(const std::string& name, const std::vector<std::string>& files) {
    fs::create_directories(top_ / name);
    for (const std::string& file : files) {
      std::ofstream(top_ / name / file) << "x";
    }
    return top_ / name;
  }

  fs::path top_;
};

TEST_F(DataDir, IsToldByWhatStandsInItWhateverItsName) {
  EXPECT_TRUE(is_data_directory(folder("q1", {"quad.db", "lock"})));
  EXPECT_TRUE(is_data_directory(folder("keys only", {"secret.key", "attempt.key"})));
  EXPECT_TRUE(is_data_directory(folder("token", {"admin.token", "server.json"})));
  EXPECT_FALSE(is_data_directory(folder("mine", {"lock", "server.json", "train.py"})));
  EXPECT_FALSE(is_data_directory(folder("a key", {"secret.key"})));
  EXPECT_FALSE(is_data_directory(top_ / "none"));
}

TEST_F(DataDir, HoldsWhatIsQuadsOwnAndWhatIsOfItsJobs) {
  const fs::path data = folder("data", {"quad.db", "secret.key"});
  EXPECT_EQ(data_directory_around(data), data);
  EXPECT_EQ(data_directory_around(data / "secret.key"), data);
  EXPECT_EQ(data_directory_around(data / "blobs" / "home"), data);
  EXPECT_EQ(data_directory_around(data / "nodes" / "local-1" / "7-1-0"), data);
  EXPECT_EQ(data_directory_around(data / "hot"), data);
  EXPECT_EQ(data_directory_around(data / "nodes/local-1/7-1-0/home/sky_workdir"), std::nullopt);
  EXPECT_EQ(data_directory_around(data / "hot/7/e1/step-10.pt"), std::nullopt);
  EXPECT_EQ(data_directory_around(top_ / "data-of-mine"), std::nullopt);
}

}  // namespace
}  // namespace quad
