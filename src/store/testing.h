// store/testing.h
//
// What the store's tests share: a folder of their own, and jobs and events to put into it. For
// tests only.

#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "store/store.h"

namespace quad::store {

/// A folder that is gone with its owner.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "quad-store-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data()) == nullptr ? "" : pattern;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline std::unique_ptr<Store> open_or_fail(const std::filesystem::path& folder) {
  auto store = open_sqlite(folder);
  if (!store.ok()) {
    ADD_FAILURE() << store.error().message;
    return nullptr;
  }
  return std::move(store).value();
}

inline job::Job make_job(std::int64_t id, const std::string& owner = "ana",
                         const std::string& body = "{}") {
  auto request = std::make_shared<job::Request>();
  request->name = fmt::format("train-{}", id);
  request->owner = owner;
  request->shapes = {{{4'000, 8LL << 30, 1}, "H100"}};
  request->body = body;
  job::Job job;
  job.id = JobId(id);
  job.request = std::move(request);
  job.submitted_at = WallTime{1'700'000'000'000 + id};
  return job;
}

/// A batch under construction; owns the jobs that it names, and numbers its events after `last`.
class BatchBuilder {
 public:
  explicit BatchBuilder(Revision last) : last_(last.value()) {}

  BatchBuilder& add(job::Job job, const std::string& client_key = {}) {
    jobs_.push_back(std::move(job));
    batch_.new_jobs.push_back({&jobs_.back(), client_key});
    return event("job.submitted", jobs_.back().id);
  }
  BatchBuilder& change(job::Job job) {
    jobs_.push_back(std::move(job));
    batch_.changed_jobs.push_back(&jobs_.back());
    return *this;
  }
  BatchBuilder& event(const std::string& kind, JobId job, const std::string& node = {}) {
    job::Event event;
    event.revision = Revision(++last_);
    event.at = WallTime{1'700'000'000'000 + last_};
    event.job = job;
    event.node = node;
    event.kind = kind;
    event.actor = "control";
    event.message = fmt::format("{} happened.", kind);
    batch_.events.push_back(std::move(event));
    return *this;
  }
  BatchBuilder& set(const std::string& key, const std::string& value) {
    batch_.settings.emplace_back(key, value);
    return *this;
  }
  [[nodiscard]] const Batch& batch() const { return batch_; }
  Batch& batch() { return batch_; }
  [[nodiscard]] Revision last() const { return Revision(last_); }

 private:
  std::int64_t last_;
  std::deque<job::Job> jobs_;
  Batch batch_;
};

/// Every fault of the store, one a line; "" when it is sound.
inline std::string faults_of(const Store& store) {
  const auto faults = store.check();
  if (!faults.ok()) {
    return faults.error().message;
  }
  return fmt::format("{}", fmt::join(*faults, "\n"));
}

}  // namespace quad::store
