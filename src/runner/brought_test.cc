#include "runner/brought.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/remove_tree.h"
#include "base/text.h"
#include "runner/unpack.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

/// A tree: what is a file by its content, "-> x" is a link, "/" a folder.
using Tree = std::map<std::string, std::string>;

constexpr std::string_view kLink = "-> ";

la_ssize_t append(archive* /*writer*/, void* text, const void* bytes, std::size_t size) {
  static_cast<std::string*>(text)->append(static_cast<const char*>(bytes), size);
  return static_cast<la_ssize_t>(size);
}

/// `hole`: so many MiB of nothing before the content of each file.
std::string pack(const Tree& tree, la_int64_t hole = 0) {
  hole <<= 20;
  std::string packed;
  const std::unique_ptr<archive, decltype(&archive_write_free)> writer(archive_write_new(),
                                                                       &archive_write_free);
  archive_write_set_format_pax(writer.get());
  archive_write_open2(writer.get(), &packed, nullptr, append, nullptr, nullptr);
  for (const auto& [name, what] : tree) {
    const std::unique_ptr<archive_entry, decltype(&archive_entry_free)> entry(archive_entry_new(),
                                                                              &archive_entry_free);
    archive_entry_set_pathname(entry.get(), name.c_str());
    archive_entry_set_perm(entry.get(), what == "/" ? 0755 : 0644);
    // As a file's own time would be: another for each content.
    archive_entry_set_mtime(entry.get(), 1'700'000'000,
                            static_cast<long>(std::hash<std::string>()(what) % 1'000'000'000));
    if (what == "/") {
      archive_entry_set_filetype(entry.get(), AE_IFDIR);
    } else if (what.starts_with(kLink)) {
      archive_entry_set_filetype(entry.get(), AE_IFLNK);
      archive_entry_set_symlink(entry.get(), what.c_str() + kLink.size());
    } else {
      archive_entry_set_filetype(entry.get(), AE_IFREG);
      archive_entry_set_size(entry.get(), static_cast<la_int64_t>(what.size()));
      if (hole != 0) {
        archive_entry_set_size(entry.get(), hole + static_cast<la_int64_t>(what.size()));
        archive_entry_sparse_add_entry(entry.get(), hole, static_cast<la_int64_t>(what.size()));
      }
    }
    archive_write_header(writer.get(), entry.get());
    if (archive_entry_filetype(entry.get()) == AE_IFREG) {
      // Of a sparse file all is handed over, and only what is no hole is written.
      const std::string zeros(hole == 0 ? 0 : 1U << 20U, '\0');
      for (la_int64_t left = hole; left > 0; left -= static_cast<la_int64_t>(zeros.size())) {
        archive_write_data(writer.get(), zeros.data(), zeros.size());
      }
      archive_write_data(writer.get(), what.data(), what.size());
    }
  }
  archive_write_close(writer.get());
  return packed;
}

ByteSource source_of(std::string bytes, std::size_t most = std::string::npos) {
  return
      [bytes = std::move(bytes), at = std::size_t{0}, most]() mutable -> Result<std::string_view> {
        if (at >= most) {
          return error(ErrorCode::kUnavailable, "The connection broke");
        }
        const std::size_t size = std::min<std::size_t>({bytes.size() - at, 512, most - at});
        at += size;
        return std::string_view(bytes).substr(at - size, size);
      };
}

class BroughtTest : public ::testing::Test {
 protected:
  BroughtTest() : root_(fs::temp_directory_path() / ("quad-brought-" + random_hex(6))) {
    fs::create_directories(root_ / "lists");
    lists_.reset(::open((root_ / "lists").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  ~BroughtTest() override { (void)remove_tree(root_); }

  fs::path place() const { return root_ / "place"; }

  /// Brings a tree as rank `key`.
  Status bring(const Tree& tree, const std::string& key = "1-1-0",
               std::size_t most = std::string::npos) {
    return bring_to(place(), tree, key, most);
  }
  Status bring_to(const fs::path& to, const Tree& tree, const std::string& key,
                  std::size_t most = std::string::npos) {
    QUAD_ASSIGN(Brought memory, Brought::open(lists_.get(), to, key, "~/x"));
    QUAD_TRY(expect_place(memory, to, Fact::folder()));
    fs::create_directories(to);
    const auto unpacked = unpack_tree(source_of(pack(tree), most), to, {.memory = &memory});
    if (!unpacked.ok()) {
      return unpacked.error();
    }
    QUAD_TRY(memory.finish());
    story_ = memory.story();
    return {};
  }
  Status bring_file(const fs::path& to, const std::string& content, const std::string& key) {
    QUAD_ASSIGN(Brought memory, Brought::open(lists_.get(), to, key, "~/x"));
    const auto unpacked =
        unpack_file(source_of(pack({{"file", content}})), to, {.memory = &memory});
    if (!unpacked.ok()) {
      return unpacked.error();
    }
    return memory.finish();
  }

  static Status expect_place(Brought& memory, const fs::path& to, const Fact& fact) {
    const UniqueFd parent(::open(to.parent_path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    return memory.expect(parent.get(), to.filename().string(), "", fact);
  }

  /// What is there.
  Tree tree() const {
    Tree found;
    for (const auto& entry : fs::recursive_directory_iterator(place())) {
      const std::string name = fs::relative(entry.path(), place()).string();
      if (entry.is_symlink()) {
        found[fs::path(entry.path()).lexically_relative(place()).string()] =
            std::string(kLink) + fs::read_symlink(entry.path()).string();
      } else if (entry.is_directory()) {
        found[name] = "/";
      } else {
        std::ifstream file(entry.path());
        found[name] = {std::istreambuf_iterator<char>(file), {}};
      }
    }
    return found;
  }

  /// As a task does.
  void write(const fs::path& path, std::string_view text) const {
    fs::create_directories((place() / path).parent_path());
    std::ofstream(place() / path) << text;
  }

  fs::path root_;
  UniqueFd lists_;
  std::string story_;
};

TEST_F(BroughtTest, WhatIsNotBroughtAnyMoreGoesAndWhatTasksWroteStays) {
  ASSERT_TRUE(bring({{"old.py", "x"}, {"lib", "/"}, {"lib/a", "a"}, {"lib/b", "b"}}).ok());
  write("out.ckpt", "mine");
  write("lib/cache/c", "mine too");
  ASSERT_TRUE(bring({{"new.py", "x"}, {"lib", "/"}, {"lib/b", "b"}}).ok());
  EXPECT_EQ(tree(), (Tree{{"new.py", "x"},
                          {"lib", "/"},
                          {"lib/b", "b"},
                          {"lib/cache", "/"},
                          {"lib/cache/c", "mine too"},
                          {"out.ckpt", "mine"}}));
  ASSERT_TRUE(bring({{"new.py", "x"}}).ok());
  EXPECT_EQ(tree(), (Tree{{"new.py", "x"},
                          {"lib", "/"},
                          {"lib/cache", "/"},
                          {"lib/cache/c", "mine too"},
                          {"out.ckpt", "mine"}}));
  EXPECT_EQ(story_, "");
}

TEST_F(BroughtTest, EveryPairOfTypesArrives) {
  const std::array<Tree, 4> kinds = {Tree{{"conf", "text"}}, Tree{{"conf", "/"}, {"conf/a", "a"}},
                                     Tree{{"conf", "-> nowhere"}}, Tree{{"conf", "/"}}};
  for (const Tree& before : kinds) {
    for (const Tree& after : kinds) {
      ASSERT_TRUE(bring(before).ok());
      const Status brought = bring(after);
      ASSERT_TRUE(brought.ok()) << brought.error().message;
      EXPECT_EQ(tree(), after);
    }
  }
}

TEST_F(BroughtTest, WhatATaskPutInTheWayGivesWayUnlessItIsAFolderWithItsFiles) {
  ASSERT_TRUE(bring({{"artifacts", "-> nowhere"}}).ok());
  // The link led nowhere, so the task made a folder: of that nothing is lost yet.
  fs::remove(place() / "artifacts");
  fs::create_directories(place() / "artifacts/empty");
  ASSERT_TRUE(bring({{"artifacts", "-> nowhere"}}).ok());
  EXPECT_EQ(tree(), (Tree{{"artifacts", "-> nowhere"}}));
  fs::remove(place() / "artifacts");
  write("artifacts/run/out.txt", "mine");
  const Status refused = bring({{"artifacts", "-> nowhere"}});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message,
            "~/x/artifacts is to become a file or a link, but is a folder there in which tasks "
            "have written ~/x/artifacts/run/out.txt; move that away or remove it (quad exec, quad "
            "shell), and try again");
  EXPECT_EQ(tree().at("artifacts/run/out.txt"), "mine");
  // A file of a task's gives way to a folder.
  fs::remove_all(place() / "artifacts");
  write("artifacts", "a file");
  ASSERT_TRUE(bring({{"artifacts", "/"}, {"artifacts/a", "a"}}).ok());
  EXPECT_EQ(tree().at("artifacts/a"), "a");
}

TEST_F(BroughtTest, AFileThatATaskHasChangedIsBroughtAnewAndTold) {
  ASSERT_TRUE(bring({{"config", "sent"}, {"gone", "sent"}}).ok());
  write("config", "changed by a task");
  write("gone", "changed by a task");
  ASSERT_TRUE(bring({{"config", "sent"}}).ok());
  EXPECT_EQ(tree(), (Tree{{"config", "sent"}, {"gone", "changed by a task"}}))
      << "what is no longer sent, but a task has written since, is the task's";
  EXPECT_EQ(story_,
            "Tasks had changed 1 of the files that are brought; now they are as they were "
            "sent: ~/x/config");
}

TEST_F(BroughtTest, APlaceChangesItsTypeToo) {
  ASSERT_TRUE(bring({{"a", "/"}, {"a/b", "b"}}).ok());
  ASSERT_TRUE(bring_file(place(), "one file", "2-1-0").ok());
  EXPECT_TRUE(fs::is_regular_file(place()));
  ASSERT_TRUE(bring({{"c", "c"}}, "3-1-0").ok());
  EXPECT_EQ(tree(), (Tree{{"c", "c"}}));
}

TEST_F(BroughtTest, WhatARunningRankHasBroughtStaysUntilItEnds) {
  auto running = hold_brought(lists_.get(), "7-1-0");
  ASSERT_TRUE(running.ok());
  ASSERT_TRUE(bring({{"module.py", "of 7"}, {"shared.py", "1"}}, "7-1-0").ok());
  ASSERT_TRUE(bring({{"other.py", "of 8"}, {"shared.py", "2"}}, "8-1-0").ok());
  EXPECT_EQ(tree(), (Tree{{"module.py", "of 7"}, {"other.py", "of 8"}, {"shared.py", "2"}}));
  ASSERT_TRUE(bring({{"shared.py", "3"}}, "9-1-0").ok());
  EXPECT_EQ(tree(), (Tree{{"module.py", "of 7"}, {"shared.py", "3"}}));
  running.value().reset();
  ASSERT_TRUE(bring({{"shared.py", "3"}}, "10-1-0").ok());
  EXPECT_EQ(tree(), (Tree{{"shared.py", "3"}}));
}

TEST_F(BroughtTest, OneThatWasBrokenOffAnywhereIsClearedUpByTheNext) {
  const Tree broken = {
      {"a", std::string(2000, 'a')}, {"d", "/"}, {"d/b", std::string(2000, 'b')}, {"l", "-> a"}};
  const Tree after = {{"d", "now a file"}, {"z", "z"}};
  const std::size_t size = pack(broken).size();
  for (std::size_t most = 0; most <= size; most += 512) {
    (void)bring(broken, "1-1-0", most);
    const Status brought = bring(after, "2-1-0");
    ASSERT_TRUE(brought.ok()) << brought.error().message;
    ASSERT_EQ(tree(), after) << "broken off after " << most << " bytes";
  }
}

TEST_F(BroughtTest, AFolderThatIsClosedToItsOwnerIsBroughtAgain) {
  fs::create_directories(place());
  const auto pass = [&] {
    for (const char* folder : {"", "lists", "place"}) {
      ASSERT_EQ(::chown((root_ / folder).c_str(), 65534, 65534), 0);
    }
  };
  if (::geteuid() == 0) {
    pass();
  }
  std::thread([&] {
    ::syscall(SYS_setfsuid, 65534);  // of this thread alone
    for (const char* text : {"one", "two"}) {
      ASSERT_TRUE(bring({{"closed", "/"}, {"closed/a", text}, {"closed/b", "b"}}).ok());
      EXPECT_EQ(tree().at("closed/a"), text);
      ::chmod((place() / "closed").c_str(), 0555);
    }
    ASSERT_TRUE(bring({{"closed", "/"}, {"closed/a", "a"}}).ok());
    EXPECT_EQ(tree(), (Tree{{"closed", "/"}, {"closed/a", "a"}}));
    ::chmod((place() / "closed").c_str(), 0555);
    ASSERT_TRUE(bring({}).ok());
    EXPECT_EQ(tree(), Tree());
  }).join();
}

TEST_F(BroughtTest, AMountInsideAnotherIsNobodyElsesToRemove) {
  ASSERT_TRUE(bring({{"train.py", "1"}, {"data", "/"}, {"data/own", "1"}}, "1-1-0").ok());
  ASSERT_TRUE(bring_to(place() / "data", {{"mounted", "m"}}, "1-1-0").ok());
  ASSERT_TRUE(bring({{"train.py", "2"}}, "2-1-0").ok());
  EXPECT_EQ(tree(), (Tree{{"train.py", "2"}, {"data", "/"}, {"data/mounted", "m"}}));
  // Quad brought all that is in it, so there is nothing of anybody's to lose.
  ASSERT_TRUE(bring({{"data", "a file"}}, "3-1-0").ok());
  EXPECT_EQ(tree(), (Tree{{"data", "a file"}}));
}

TEST_F(BroughtTest, NothingIsRemovedThroughALinkThatATaskHasPutThere) {
  ASSERT_TRUE(bring({{"d", "/"}, {"d/a", "a"}}).ok());
  fs::rename(place() / "d", root_ / "moved");
  fs::create_directory_symlink(root_ / "moved", place() / "d");
  ASSERT_TRUE(bring({{"b", "b"}}).ok());
  EXPECT_TRUE(fs::exists(root_ / "moved/a"));
}

// Random trees brought one after the other, with tasks that write between: what is there is the
// newest tree and what tasks wrote.
TEST_F(BroughtTest, RandomTreesAndTasksAreTheNewestTreeAndWhatTasksWrote) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937 random(seed);
  const auto below = [&random](unsigned most) { return static_cast<unsigned>(random() % most); };
  Tree tasks;  // what they wrote, which names of its own keep out of the way
  for (int round = 0; round < 60; ++round) {
    Tree wanted;
    for (unsigned i = below(12); i > 0; --i) {
      std::string name;
      for (unsigned depth = 0; depth <= below(3); ++depth) {
        if (!name.empty()) {
          wanted[name] = "/";
        }
        name += (name.empty() ? "" : "/") + std::string(1, static_cast<char>('a' + below(3)));
        if (const auto there = wanted.find(name); there != wanted.end() && there->second != "/") {
          break;
        }
      }
      if (!wanted.contains(name)) {
        constexpr std::array<const char*, 4> kWhat = {"/", "one", "two", "-> nowhere"};
        wanted[name] = kWhat.at(below(4));
      }
    }
    const Status brought = bring(wanted, fmt::format("{}-1-0", round));
    if (!brought.ok()) {
      // Only for a folder that holds what a task wrote; the task gives way.
      ASSERT_EQ(brought.error().code, ErrorCode::kExists) << brought.error().message;
      for (const auto& [path, text] : tasks) {
        fs::remove(place() / path);
      }
      tasks.clear();
      const Status again = bring(wanted, fmt::format("{}-2-0", round));
      ASSERT_TRUE(again.ok()) << again.error().message;
    }
    Tree expected = wanted;
    for (const auto& [path, text] : tasks) {
      expected[path] = text;
    }
    Tree found = tree();
    // Folders in which a task wrote stay with it.
    for (const auto& [path, text] : tasks) {
      for (fs::path at = fs::path(path).parent_path(); !at.empty(); at = at.parent_path()) {
        expected[at.string()] = "/";
      }
    }
    ASSERT_EQ(found, expected) << "round " << round;
    for (const auto& [name, what] : wanted) {
      if (what == "/" && below(3) == 0) {
        const std::string path = fmt::format("{}/out-{}", name, round);
        write(path, "of a task");
        tasks[path] = "of a task";
      }
    }
  }
}

TEST_F(BroughtTest, AnArchiveThatFillsTheDiskLeavesRoomAndNothingOfItself) {
  bool permitted = false;
  std::thread([&] {
    fs::create_directories(root_ / "small");
    permitted = ::unshare(CLONE_NEWNS) == 0 &&
                ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                ::mount("none", (root_ / "small").c_str(), "tmpfs", 0, "size=64m") == 0;
    if (!permitted) {
      return;
    }
    const fs::path place = root_ / "small/place";
    ASSERT_TRUE(bring_to(place, {{"kept", "k"}}, "1-1-0").ok());
    {
      auto memory = Brought::open(lists_.get(), place, "2-1-0", "~/x");
      ASSERT_TRUE(memory.ok());
      const auto unpacked =
          unpack_tree(source_of(pack({{"kept", "k2"}, {"large", std::string(80U << 20U, '\0')}})),
                      place, {.memory = &*memory, .keeps_room = true});
      ASSERT_FALSE(unpacked.ok());
      EXPECT_EQ(unpacked.error().code, ErrorCode::kExhausted);
      EXPECT_NE(unpacked.error().message.find("the disk has no room for it"), std::string::npos)
          << unpacked.error().message;
      memory->undo();
    }
    // A data set with holes takes no more room than what is in it.
    {
      auto memory = Brought::open(lists_.get(), root_ / "small/sparse", "3-1-0", "~/x");
      ASSERT_TRUE(memory.ok());
      fs::create_directories(root_ / "small/sparse");
      const auto unpacked =
          unpack_tree(source_of(pack({{"sparse", "end"}}, 300)), root_ / "small/sparse",
                      {.memory = &*memory, .keeps_room = true});
      EXPECT_TRUE(unpacked.ok()) << unpacked.error().message;
      EXPECT_EQ(fs::file_size(root_ / "small/sparse/sparse"), (300U << 20U) + 3U);
    }
    EXPECT_TRUE(fs::exists(place / "kept"));
    EXPECT_FALSE(fs::exists(place / "large"));
    EXPECT_EQ(std::distance(fs::directory_iterator(place), fs::directory_iterator()), 1);
  }).join();
  if (!permitted) {
    GTEST_SKIP() << "nothing may be mounted here";
  }
}

}  // namespace
}  // namespace quad::runner
