// What a store must survive: its process killed at any moment, and a disk that is full.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <random>

#include "base/file.h"
#include "store/testing.h"

namespace quad::store {
namespace {

namespace fs = std::filesystem;
using testing::AnyOf;
using testing::HasSubstr;

/// Batch number `n`: a new job, a change of the one before, and three events.
BatchBuilder numbered_batch(std::int64_t n, Revision last) {
  BatchBuilder builder(last);
  builder.add(make_job(n, "ana", std::string(static_cast<std::size_t>(n * 37 % 9000), 'x')),
              std::to_string(n));
  if (n > 1) {
    job::Job before = make_job(n - 1);
    before.status = job::Status::kCancelled;
    before.ended_at = WallTime{n};
    builder.change(std::move(before));
  }
  builder.event("job.a", JobId(n), "n1").event("job.b", JobId(n)).set("last", std::to_string(n));
  return builder;
}

/// The number of the last batch in the store, all of which must be whole.
std::int64_t expect_whole(Store& store) {
  EXPECT_EQ(faults_of(store), "");
  const auto loaded = store.load();
  if (!loaded.ok()) {
    ADD_FAILURE() << loaded.error().message;
    return -1;
  }
  const auto last = static_cast<std::int64_t>(loaded->jobs.size());
  EXPECT_EQ(loaded->last_revision, Revision(3 * last));
  EXPECT_EQ(loaded->client_keys.size(), loaded->jobs.size());
  EXPECT_EQ(loaded->settings.empty() ? "0" : loaded->settings[0].second, std::to_string(last));
  for (const job::Job& job : loaded->jobs) {
    EXPECT_EQ(job.status == job::Status::kCancelled, job.id.value() < last)
        << "job " << job.id.value();
  }
  return last;
}

/// In the child: commits until it is killed, and says each number once it is durable.
[[noreturn]] void commit_until_killed(const fs::path& folder, int acknowledge) {
  auto store = open_sqlite(folder);
  auto loaded = store.ok() ? (*store)->load() : Result<Loaded>(store.error());
  if (!loaded.ok()) {
    ::_exit(3);
  }
  Revision last = loaded->last_revision;
  for (auto n = static_cast<std::int64_t>(loaded->jobs.size()) + 1;; ++n) {
    const BatchBuilder builder = numbered_batch(n, last);
    if (!(*store)->commit(builder.batch()).ok()) {
      ::_exit(4);
    }
    last = builder.last();
    if (::write(acknowledge, &n, sizeof n) != sizeof n) {
      ::_exit(5);
    }
  }
}

TEST(Crash, LosesNothingThatWasAcknowledgedWhenItsWriterIsKilled) {
  TemporaryFolder folder;
  std::mt19937 random(20);  // the same rounds each time; where the kill falls differs all the same
  std::int64_t acknowledged = 0;
  for (int round = 0; round < 25; ++round) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    UniqueFd from(ends[0]);
    UniqueFd to(ends[1]);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      commit_until_killed(folder.path(), to.get());
    }
    to.reset();
    // The child is in the midst of later commits when the last of these is read.
    for (auto count = random() % 30 + 1; count > 0; --count) {
      ASSERT_EQ(::read(from.get(), &acknowledged, sizeof acknowledged),
                static_cast<ssize_t>(sizeof acknowledged));
    }
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself, with " << WEXITSTATUS(status);
    std::int64_t further = 0;
    while (::read(from.get(), &further, sizeof further) == sizeof further) {
      acknowledged = further;
    }
    const auto store = open_or_fail(folder.path());  // the lock is free again
    ASSERT_NE(store, nullptr);
    const std::int64_t found = expect_whole(*store);
    ASSERT_GE(found, acknowledged) << "in round " << round;
    ASSERT_LE(found, acknowledged + 1) << "in round " << round;
  }
}

/// Commits numbered batches until one fails; the number of the last that did not.
std::int64_t commit_until_full(Store& store, std::int64_t at, Error& failure) {
  for (std::int64_t n = at + 1; n < 100'000; ++n) {
    const Status status = store.commit(numbered_batch(n, Revision(3 * (n - 1))).batch());
    if (!status.ok()) {
      failure = status.error();
      return n - 1;
    }
  }
  return at;
}

TEST(FullDisk, RollsBackWholeAndWorksAgainOnceThereIsSpace) {
  // A file system of its own, in a mount namespace of its own, which is gone with this process.
  TemporaryFolder folder;
  if (::unshare(CLONE_NEWNS) != 0 ||
      ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("none", folder.path().c_str(), "tmpfs", 0, "size=3m") != 0) {
    GTEST_SKIP() << "needs the right to mount a file system";
  }
  auto store = open_or_fail(folder.path());
  ASSERT_NE(store, nullptr);
  ASSERT_TRUE(write_file_atomically(folder.path() / "ballast", std::string(1 << 20, 'x')).ok());
  Error failure;
  std::int64_t last = commit_until_full(*store, 0, failure);
  EXPECT_EQ(failure.code, ErrorCode::kExhausted);
  EXPECT_EQ(
      failure.message,
      "The disk of the data directory is full, so the store's work failed; free some space there");
  EXPECT_GT(last, 0);
  EXPECT_EQ(expect_whole(*store), last);
  EXPECT_FALSE(store->commit(numbered_batch(last + 1, Revision(3 * last)).batch()).ok());
  const Status backup = store->backup(folder.path() / "copy.db");
  ASSERT_FALSE(backup.ok());
  EXPECT_EQ(backup.error().code, ErrorCode::kExhausted);

  fs::remove(folder.path() / "ballast");
  for (int i = 0; i < 5; ++i, ++last) {
    const Status status = store->commit(numbered_batch(last + 1, Revision(3 * last)).batch());
    ASSERT_TRUE(status.ok()) << status.error().message;
  }
  EXPECT_EQ(expect_whole(*store), last);
  store.reset();
  store = open_or_fail(folder.path());
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(expect_whole(*store), last);
  store.reset();
  ::umount2(folder.path().c_str(), MNT_DETACH);
}

TEST(FullDisk, LeavesRoomForTheRecordsThatFreeIt) {
  TemporaryFolder folder;
  if (::unshare(CLONE_NEWNS) != 0 ||
      ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("none", folder.path().c_str(), "tmpfs", 0, "size=40m") != 0) {
    GTEST_SKIP() << "needs the right to mount a file system";
  }
  auto store = open_or_fail(folder.path());
  ASSERT_NE(store, nullptr);
  EXPECT_TRUE(store->room().ok());
  {
    std::ofstream ballast(folder.path() / "ballast");
    while (ballast.write(std::string(4096, 'x').data(), 4096).flush()) {
    }
  }
  EXPECT_EQ(store->room().error().code, ErrorCode::kExhausted);
  std::int64_t last = 0;
  for (; last < 50; ++last) {
    const Status status = store->commit(numbered_batch(last + 1, Revision(3 * last)).batch());
    ASSERT_TRUE(status.ok()) << status.error().message;
  }
  EXPECT_EQ(store->room().error().code, ErrorCode::kExhausted);
  fs::remove(folder.path() / "ballast");
  ASSERT_TRUE(store->commit(numbered_batch(last + 1, Revision(3 * last)).batch()).ok());
  EXPECT_TRUE(store->room().ok());
  EXPECT_EQ(fs::file_size(folder.path() / "reserve"), 8U << 20U) << "it is there again";
  EXPECT_EQ(expect_whole(*store), last + 1);
  store.reset();
  ::umount2(folder.path().c_str(), MNT_DETACH);
}

TEST(FullDisk, IsWhatAFileSizeLimitLooksLike) {
  TemporaryFolder folder;
  auto store = open_or_fail(folder.path());
  ASSERT_NE(store, nullptr);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = 500'000;
  const auto old_handler = ::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  Error failure;
  std::int64_t last = commit_until_full(*store, 0, failure);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(failure.code, ErrorCode::kExhausted) << failure.message;
  EXPECT_EQ(expect_whole(*store), last);
  ASSERT_TRUE(store->commit(numbered_batch(last + 1, Revision(3 * last)).batch()).ok());
  EXPECT_EQ(expect_whole(*store), last + 1);
}

TEST(ReadOnlyDisk, SaysThatItCannotBeWrittenTo) {
  TemporaryFolder folder;
  if (::unshare(CLONE_NEWNS) != 0 ||
      ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("none", folder.path().c_str(), "tmpfs", 0, "size=3m") != 0 ||
      ::mount("none", folder.path().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) != 0) {
    GTEST_SKIP() << "needs the right to mount a file system";
  }
  const auto store = open_sqlite(folder.path());
  ASSERT_FALSE(store.ok());
  EXPECT_EQ(store.error().code, ErrorCode::kIo);
  EXPECT_THAT(store.error().message,
              AnyOf(HasSubstr("Read-only file system"), HasSubstr("cannot be written to")));
  ::umount2(folder.path().c_str(), MNT_DETACH);
}

}  // namespace
}  // namespace quad::store
