#include "simulate/memory_store.h"

#include <fmt/format.h>

#include <map>
#include <string>

#include "job/record.h"

namespace quad::simulate {

namespace {

class MemoryStore final : public store::Store {
 public:
  explicit MemoryStore(std::function<Status()> fault) : fault_(std::move(fault)) {}

  Result<store::Loaded> load() override {
    store::Loaded loaded;
    for (const auto& [id, text] : jobs_) {
      QUAD_ASSIGN(auto request_object, parse_json_object(requests_.at(id)));
      QUAD_ASSIGN(auto request, job::request_from_json(request_object));
      QUAD_ASSIGN(auto object, parse_json_object(text));
      QUAD_ASSIGN(auto job,
                  job::job_from_json(object, std::make_shared<job::Request>(std::move(request))));
      loaded.jobs.push_back(std::move(job));
    }
    loaded.last_revision = events_.empty() ? Revision(0) : events_.back().revision;
    loaded.settings.assign(settings_.begin(), settings_.end());
    loaded.client_keys.assign(client_keys_.begin(), client_keys_.end());
    return loaded;
  }

  Status commit(const store::Batch& batch) override {
    QUAD_TRY(fault_());
    for (const auto& added : batch.new_jobs) {
      const job::Job& job = *added.job;
      if (!jobs_.emplace(job.id, to_text(job::to_json(job))).second) {
        return error(ErrorCode::kInternal, fmt::format("Job {} is stored already", job.id.value()));
      }
      requests_.emplace(job.id, to_text(job::to_json(*job.request)));
      if (!added.client_key.empty()) {
        client_keys_.emplace(std::make_pair(job.request->owner, added.client_key), job.id);
      }
    }
    for (const job::Job* job : batch.changed_jobs) {
      jobs_.at(job->id) = to_text(job::to_json(*job));
    }
    for (const job::Event& event : batch.events) {
      const std::int64_t expected = events_.empty() ? 1 : events_.back().revision.value() + 1;
      if (event.revision.value() != expected) {
        return error(ErrorCode::kInternal,
                     fmt::format("Event {} follows {}", event.revision.value(), expected - 1));
      }
      events_.push_back(event);
    }
    for (const auto& [key, value] : batch.settings) {
      if (value.empty()) {
        settings_.erase(key);
      } else {
        settings_[key] = value;
      }
    }
    return {};
  }

  [[nodiscard]] Status room() const override { return {}; }
  Result<std::vector<job::Event>> events(const store::EventFilter& filter) const override {
    std::vector<job::Event> found;
    for (const job::Event& event : events_) {
      if (event.revision > filter.after && (!filter.until || event.revision <= *filter.until) &&
          found.size() < filter.limit && (!filter.job || event.job == *filter.job)) {
        found.push_back(event);
      }
    }
    return found;
  }

  Result<std::string> body(JobId job) const override {
    QUAD_ASSIGN(auto object, parse_json_object(requests_.at(job)));
    return std::string(get_string(object, "body"));
  }

  Status backup(const std::filesystem::path& /*to*/) const override {
    return error(ErrorCode::kUnsupported, "A store in memory has no backup");
  }
  Result<std::vector<std::string>> check() const override { return std::vector<std::string>(); }

 private:
  std::function<Status()> fault_;
  std::map<JobId, std::string> jobs_;
  std::map<JobId, std::string> requests_;
  std::vector<job::Event> events_;
  std::map<std::string, std::string> settings_;
  std::map<std::pair<std::string, std::string>, JobId> client_keys_;
};

}  // namespace

std::unique_ptr<store::Store> make_memory_store(std::function<Status()> fault) {
  return std::make_unique<MemoryStore>(std::move(fault));
}

}  // namespace quad::simulate
