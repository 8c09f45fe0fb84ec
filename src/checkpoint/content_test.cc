#include "checkpoint/content.h"

#include <gtest/gtest.h>

#include "checkpoint/test_files.h"

namespace quad::checkpoint::test {
namespace {

Proof proof_of(const fs::path& path) {
  const PosixFileView view;
  return check_file(view, path, *view.stat(path), Limits()).proof;
}

std::string what_of(const fs::path& path) {
  const PosixFileView view;
  return check_file(view, path, *view.stat(path), Limits()).what;
}

TEST(ZipFile, IsWholeAsItWasWritten) {
  const Folder folder;
  put(folder / "a.pt", torch_file());
  EXPECT_EQ(proof_of(folder / "a.pt"), Proof::kWhole) << what_of(folder / "a.pt");
  put(folder / "b.pt", zip({{"archive/data.pkl", pickle({})}, {"archive/data/0", "xyz"}}, true));
  EXPECT_EQ(proof_of(folder / "b.pt"), Proof::kWhole) << what_of(folder / "b.pt");
}

TEST(ZipFile, IsBrokenAtEveryShorterLength) {
  const Folder folder;
  for (const bool wide : {false, true}) {
    const std::string bytes =
        zip({{"archive/data.pkl", pickle({})}, {"archive/data/0", std::string(90, 'w')}}, wide);
    for (std::size_t length = 0; length < bytes.size(); ++length) {
      put(folder / "a.pt", bytes.substr(0, length));
      ASSERT_EQ(proof_of(folder / "a.pt"), Proof::kBroken)
          << length << " of " << bytes.size() << ": " << what_of(folder / "a.pt");
    }
  }
}

TEST(ZipFile, IsBrokenWhenItsStartOrItsPartsNeverReachedTheDisk) {
  const Folder folder;
  std::string bytes = torch_file({}, 5000);
  put(folder / "zeros.pt", std::string(bytes.size(), '\0'));
  EXPECT_EQ(proof_of(folder / "zeros.pt"), Proof::kBroken);
  for (std::size_t i = bytes.size() / 3; i < bytes.size() * 2 / 3; ++i) {
    bytes[i] = '\0';
  }
  put(folder / "hole.pt", bytes);
  EXPECT_EQ(proof_of(folder / "hole.pt"), Proof::kBroken);
}

TEST(ZipFile, MayNotPromiseMoreThanItHas) {
  const Folder folder;
  const std::string good = torch_file();
  // Each byte of the directory and end record, turned over: never a crash, and sizes that lie are
  // found.
  for (std::size_t i = good.size() - 320; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(~bad[i]);
    put(folder / "a.pt", bad);
    (void)proof_of(folder / "a.pt");
  }
  std::string lying = good;
  lying.replace(lying.size() - 6, 4, little(0xFFFFFFF0, 4));
  put(folder / "a.pt", lying);
  EXPECT_EQ(what_of(folder / "a.pt"),
            "is cut off: its zip directory lies beyond the end of the file");
}

TEST(Safetensors, IsWholeOnlyAtExactlyItsLength) {
  const Folder folder;
  const std::string bytes = safetensors();
  put(folder / "a.safetensors", bytes);
  EXPECT_EQ(proof_of(folder / "a.safetensors"), Proof::kWhole);
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    put(folder / "a.safetensors", bytes.substr(0, length));
    ASSERT_EQ(proof_of(folder / "a.safetensors"), Proof::kBroken) << length;
  }
  put(folder / "a.safetensors", bytes + "x");
  EXPECT_EQ(what_of(folder / "a.safetensors"), "has 1 bytes more than its header accounts for");
}

TEST(Safetensors, RefusesHeadersThatLie) {
  const Folder folder;
  for (const std::string header :
       {R"({"a":{"data_offsets":[5,2]}})", R"({"a":{"data_offsets":[-1,2]}})",
        R"({"a":{"data_offsets":[0]}})", R"({"a":7})", "[]", "{", R"({"a":{}})"}) {
    put(folder / "a.safetensors", little(header.size(), 8) + header + "xx");
    EXPECT_EQ(proof_of(folder / "a.safetensors"), Proof::kBroken) << header;
  }
  put(folder / "a.safetensors", little(~0ULL, 8) + "{}");
  EXPECT_EQ(proof_of(folder / "a.safetensors"), Proof::kBroken);
}

TEST(PickleFile, IsWholeUpToItsStopMarkAndBrokenBefore) {
  const Folder folder;
  const std::string bytes = dcp_metadata({{"a.distcp", 1}});
  put(folder / "a.pkl", bytes);
  EXPECT_EQ(proof_of(folder / "a.pkl"), Proof::kWhole);
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    put(folder / "a.pkl", bytes.substr(0, length));
    ASSERT_NE(proof_of(folder / "a.pkl"), Proof::kWhole) << length;
  }
}

TEST(PickleFile, OfOldPyTorchCannotBeProven) {
  const Folder folder;
  put(folder / "old.pt",
      std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15) +
          std::string(100, 'x'));
  EXPECT_EQ(what_of(folder / "old.pt"),
            "is in PyTorch's format from before 1.6, which cannot be proven complete");
}

TEST(Pickle, TellsTheTopLevelNumbersAndNoOthers) {
  const auto facts = read_pickle(pickle({{"epoch", 3}, {"global_step", 1200}, {"step", 5}}));
  ASSERT_TRUE(facts.ok());
  EXPECT_EQ(facts->step, 1200);
  EXPECT_EQ(facts->training_epoch, 3);
  const auto none = read_pickle(pickle({}));
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->step);
  EXPECT_FALSE(none->training_epoch);
}

TEST(Pickle, TellsTheExtentsOfFiles) {
  const auto facts = read_pickle(dcp_metadata({{"a", 100}, {"b", 5}, {"a", 70}}));
  ASSERT_TRUE(facts.ok());
  ASSERT_EQ(facts->extents.size(), 2U);
  EXPECT_EQ(facts->extents.at("a"), 100U);
}

TEST(Pickle, SurvivesEveryCutAndEveryChangedByte) {
  const std::string good = dcp_metadata({{"a", 100}}) + pickle({{"step", 4}});
  for (std::size_t i = 0; i < good.size(); ++i) {
    (void)read_pickle(std::string_view(good).substr(0, i));
    for (int flip = 1; flip < 256; flip += 37) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ flip);
      (void)read_pickle(bad);
    }
  }
  EXPECT_FALSE(read_pickle("").ok());
  EXPECT_FALSE(read_pickle("u.").ok());
  EXPECT_FALSE(read_pickle("r\xff\xff\xff\xff.").ok());
  EXPECT_FALSE(read_pickle(std::string(3U << 20U, '}') + ".").ok());
}

TEST(FileView, NeverOpensWhatIsNoPlainFile) {
  const Folder folder;
  ASSERT_EQ(::mkfifo((folder / "model.pt").c_str(), 0600), 0);
  const PosixFileView view;
  EXPECT_EQ(view.stat(folder / "model.pt")->kind, FileKind::kOther);
  EXPECT_FALSE(view.read(folder / "model.pt", 0, 10).ok());
}

}  // namespace
}  // namespace quad::checkpoint::test
