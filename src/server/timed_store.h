// server/timed_store.h
//
// A store that measures how long its commits take, for /metrics; all else it hands on. Same threads
// as the store that it stands before.

#pragma once

#include <chrono>
#include <memory>
#include <utility>

#include "server/histogram.h"
#include "store/store.h"

namespace quad::server {

class TimedStore final : public store::Store {
 public:
  /// `commits` must outlive this.
  TimedStore(std::unique_ptr<store::Store> inner, Histogram& commits)
      : inner_(std::move(inner)), commits_(commits) {}

  Result<store::Loaded> load() override { return inner_->load(); }
  Status commit(const store::Batch& batch) override {
    const auto began = std::chrono::steady_clock::now();
    Status status = inner_->commit(batch);
    commits_.record(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
    return status;
  }
  [[nodiscard]] Status room() const override { return inner_->room(); }
  Result<std::vector<job::Event>> events(const store::EventFilter& filter) const override {
    return inner_->events(filter);
  }
  Result<std::string> body(JobId job) const override { return inner_->body(job); }
  Status backup(const std::filesystem::path& to) const override { return inner_->backup(to); }
  Result<std::vector<std::string>> check() const override { return inner_->check(); }

 private:
  std::unique_ptr<store::Store> inner_;
  Histogram& commits_;
};

}  // namespace quad::server
