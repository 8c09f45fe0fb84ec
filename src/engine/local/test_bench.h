// engine/local/test_bench.h
//
// What the local engine's tests share: a data folder, an engine on it, what it observed, and
// runners that are real processes (this test program executed again, fake_runner_test.cc) which do
// as the order's token says.

#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "engine/local/local_engine.h"

namespace quad::engine::test {

/// What a fake runner says when it is up: "KEY PID WORD".
struct Said {
  std::string key;
  pid_t pid = 0;
  std::string word;
};

/// While it lives, this program can open `more` files and no others.
class FewFiles {
 public:
  explicit FewFiles(int more);
  ~FewFiles();
  FewFiles(const FewFiles&) = delete;
  FewFiles& operator=(const FewFiles&) = delete;

 private:
  rlimit before_{};
};

/// Where observations arrive; any thread.
class Observed {
 public:
  Sink sink();
  /// Waits until one of type T fits, and returns a copy of the first.
  template <typename T>
  std::optional<T> wait_for(const std::function<bool(const T&)>& fits) {
    std::unique_lock lock(mutex_);
    std::optional<T> found;
    changed_.wait_for(lock, std::chrono::seconds(60), [&] {
      for (const Observation& one : all_) {
        if (const T* of_type = std::get_if<T>(&one); of_type != nullptr && fits(*of_type)) {
          found = *of_type;
          return true;
        }
      }
      return false;
    });
    return found;
  }
  template <typename T>
  std::size_t count(const std::function<bool(const T&)>& fits) {
    const std::lock_guard lock(mutex_);
    std::size_t found = 0;
    for (const Observation& one : all_) {
      const T* of_type = std::get_if<T>(&one);
      found += of_type != nullptr && fits(*of_type) ? 1 : 0;
    }
    return found;
  }
  std::optional<RunnerEnded> ended(const RankKey& key);
  void clear();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Observation> all_;
};

class Bench : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  /// A new engine on the data folder: as a server that starts. The former one must have ended.
  std::vector<Existing> begin(int nodes = 2);
  LocalEngineOptions options(int nodes) const;
  static RankKey key(std::int64_t job, std::int32_t epoch = 1, std::int32_t rank = 0);
  /// An order whose runner does as `word` says: wait, end, vanish, family, spawn.
  static StartOrder order(const RankKey& key, const std::string& word, int node = 1);
  std::filesystem::path folder(const RankKey& key, int node = 1) const;
  void kill(const RankKey& key) { engine_->kill(key, NodeId("local-1"), Millis(0)); }
  void forget(const RankKey& key) { engine_->forget(key, NodeId("local-1")); }

  /// The next word of any runner; fails the test after 60 s.
  Said hear();
  /// A runner with what it started: {word: pid} of the three of them.
  std::map<std::string, pid_t> start_family(const RankKey& key);
  /// Waits until none of them stands still any more, for at most five seconds each.
  static void expect_going_on(const std::map<std::string, pid_t>& family);
  /// Beats of the second node: what the engine does not do in that time, it does not do.
  void let_beats_pass(std::size_t count = 1);
  /// Whether a process runs (not a zombie) under this number.
  static bool lives(pid_t pid);
  static bool stands_still(pid_t pid);

  std::filesystem::path data_;
  Observed seen_;
  std::unique_ptr<LocalEngine> engine_;

 private:
  UniqueFd mouth_;
  std::string heard_;
};

}  // namespace quad::engine::test
