#include "runner/unpack.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "base/text.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

// The types of ustar.
constexpr char kFile = '0';
constexpr char kHardLink = '1';
constexpr char kSymlink = '2';
constexpr char kDevice = '3';
constexpr char kFolder = '5';
constexpr char kFifo = '6';

struct Member {
  std::string name;
  char type = kFile;
  std::string content;  // or the target of a link
  unsigned mode = 0644;
};

// A ustar archive, written by hand: libarchive would not write most of what is tested here.
std::string pack(const std::vector<Member>& members) {
  std::string out;
  for (const Member& member : members) {
    const bool has_content = member.type == kFile;
    std::string header(512, '\0');
    const auto put = [&](std::size_t at, std::string_view text) {
      header.replace(at, text.size(), text);
    };
    put(0, member.name);
    put(100, fmt::format("{:07o}", member.mode));
    put(108, "0000000");
    put(116, "0000000");
    put(124, fmt::format("{:011o}", has_content ? member.content.size() : 0));
    put(136, fmt::format("{:011o}", 1'700'000'000));
    put(148, "        ");
    put(156, std::string(1, member.type));
    put(157, has_content ? std::string() : member.content);
    put(257, std::string("ustar\00000", 8));
    unsigned sum = 0;
    for (const char c : header) {
      sum += static_cast<unsigned char>(c);
    }
    put(148, fmt::format("{:06o}", sum));
    header[154] = '\0';
    out += header;
    if (has_content) {
      out += member.content;
      out.append((512 - member.content.size() % 512) % 512, '\0');
    }
  }
  return out + std::string(1024, '\0');
}

// Gives the bytes in small pieces, as a slow network does.
ByteSource source_of(std::string bytes) {
  return [bytes = std::move(bytes), at = std::size_t{0},
          piece = std::string()]() mutable -> Result<std::string_view> {
    piece = bytes.substr(std::min(at, bytes.size()), 100);
    at += piece.size();
    return std::string_view(piece);
  };
}

class Unpack : public ::testing::Test {
 protected:
  Unpack() : root_(fs::temp_directory_path() / ("quad-unpack-" + random_hex(6))) {
    fs::create_directories(root_ / "in");
  }
  ~Unpack() override { fs::remove_all(root_); }

  std::string text(const fs::path& path) const {
    std::ifstream file(root_ / "in" / path);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  Status unpack(const std::vector<Member>& members) const {
    auto result = unpack_tree(source_of(pack(members)), root_ / "in");
    return result.ok() ? Status() : Status(result.error());
  }

  fs::path root_;
};

TEST_F(Unpack, FilesFoldersModesTimesAndLinksAreKept) {
  ASSERT_TRUE(unpack({{"./", kFolder, "", 0700},
                      {"a", kFolder, "", 0555},
                      {"a/run.sh", kFile, "#!/bin/sh\n", 0755},
                      {"deep/er/file", kFile, std::string(300'000, 'z')},
                      {"link", kSymlink, "/somewhere/else"},
                      {"same", kHardLink, "a/run.sh", 0755}})
                  .ok());
  EXPECT_EQ(text("a/run.sh"), "#!/bin/sh\n");
  EXPECT_EQ(text("deep/er/file"), std::string(300'000, 'z'));
  EXPECT_EQ(text("same"), "#!/bin/sh\n");
  EXPECT_EQ(fs::read_symlink(root_ / "in/link"), "/somewhere/else");
  struct stat info {};
  ASSERT_EQ(::stat((root_ / "in/a/run.sh").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777U, 0755U);
  EXPECT_EQ(info.st_mtime, 1'700'000'000);
  EXPECT_EQ(info.st_nlink, 2U);
  ASSERT_EQ(::stat((root_ / "in/a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777U, 0555U);
  fs::permissions(root_ / "in/a", fs::perms::owner_all);  // so that it can be removed again
}

TEST_F(Unpack, NamesThatLeaveTheFolderAreRefused) {
  for (const char* name : {"../out", "/out", "a/../../out"}) {
    const Status refused = unpack({{name, kFile, "x"}});
    ASSERT_FALSE(refused.ok()) << name;
    EXPECT_NE(refused.error().message.find(name), std::string::npos) << refused.error().message;
  }
  EXPECT_FALSE(fs::exists(root_ / "out"));
}

TEST_F(Unpack, NothingIsWrittenThroughASymbolicLink) {
  fs::create_directories(root_ / "outside");
  const std::string outside = (root_ / "outside").string();
  EXPECT_FALSE(unpack({{"door", kSymlink, outside}, {"door/file", kFile, "x"}}).ok());
  EXPECT_TRUE(fs::is_empty(root_ / "outside"));
  // A file of the link's name replaces the link and leaves what it pointed to alone.
  std::ofstream(root_ / "outside/target") << "old";
  ASSERT_TRUE(unpack({{"l", kSymlink, outside + "/target"}, {"l", kFile, "new"}}).ok());
  std::ifstream target(root_ / "outside/target");
  EXPECT_EQ(std::string((std::istreambuf_iterator<char>(target)), {}), "old");
  EXPECT_EQ(text("l"), "new");
}

TEST_F(Unpack, AHardLinkToTheOutsideIsRefused) {
  std::ofstream(root_ / "secret") << "s";
  EXPECT_FALSE(unpack({{"h", kHardLink, "../secret"}}).ok());
  EXPECT_FALSE(unpack({{"h", kHardLink, (root_ / "secret").string()}}).ok());
}

TEST_F(Unpack, SetUserIdIsDroppedAndDevicesAreRefused) {
  ASSERT_TRUE(unpack({{"su", kFile, "x", 04755}}).ok());
  struct stat info {};
  ASSERT_EQ(::stat((root_ / "in/su").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777U, 0755U);
  EXPECT_FALSE(unpack({{"null", kDevice, ""}}).ok());
  EXPECT_FALSE(unpack({{"fifo", kFifo, ""}}).ok());
}

TEST_F(Unpack, AnArchiveThatIsCutOffIsAnError) {
  const std::string whole = pack({{"f", kFile, random_hex(100'000)}});
  EXPECT_FALSE(unpack_tree(source_of(whole.substr(0, whole.size() / 2)), root_ / "in").ok());
  EXPECT_FALSE(unpack_tree(source_of("this is no archive at all"), root_ / "in").ok());
}

TEST_F(Unpack, ManyMayBringTheSameToTheSamePlaceAtOnce) {
  std::vector<Member> members = {{"d", kFolder, "", 0755}};
  for (int i = 0; i < 100; ++i) {
    members.push_back({fmt::format("d/file-{}", i), kFile, fmt::format("{}", i)});
    members.push_back({fmt::format("d/link-{}", i), kSymlink, "file-0"});
    members.push_back({fmt::format("d/same-{}", i), kHardLink, "d/file-0"});
  }
  std::array<Status, 4> ends;
  std::vector<std::thread> ranks;
  for (Status& end : ends) {
    ranks.emplace_back([&] { end = unpack(members); });
  }
  for (std::thread& rank : ranks) {
    rank.join();
  }
  for (const Status& end : ends) {
    EXPECT_TRUE(end.ok()) << end.error().message;
  }
  EXPECT_EQ(text("d/file-99"), "99");
  EXPECT_EQ(std::distance(fs::directory_iterator(root_ / "in/d"), fs::directory_iterator()), 300);
}

TEST_F(Unpack, ASingleFileTakesTheNameItIsGiven) {
  ASSERT_TRUE(
      unpack_file(source_of(pack({{"config.json", kFile, "{}", 0600}})), root_ / "in/other.json")
          .ok());
  EXPECT_EQ(text("other.json"), "{}");
}

}  // namespace
}  // namespace quad::runner
