// How control starts: the records as they were committed, joined with the runners that exist.

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "control/core.h"
#include "store/identity.h"

namespace quad::control {

Status Core::load(const std::vector<engine::Inventory>& inventories, Now now) {
  QUAD_ASSIGN(store::Loaded loaded, store_.load());
  last_revision_ = loaded.last_revision;
  settings_.insert(loaded.settings.begin(), loaded.settings.end());
  published_settings_.assign(settings_.begin(), settings_.end());
  for (auto& [key, id] : loaded.client_keys) {
    client_keys_.emplace(std::move(key), id);
  }
  for (job::Job& job : loaded.jobs) {
    if (const std::string fault = job::check(job); !fault.empty()) {
      return error(ErrorCode::kInternal,
                   fmt::format("The record of job {} is not sound: {}", job.id.value(), fault));
    }
    const JobId id = job.id;
    put(id, std::make_shared<job::Job>(std::move(job)));
  }
  skip_to(loaded.last_job);
  for (const auto& [key, value] : settings_) {
    if (key.starts_with(kClusterSetting)) {
      QUAD_ASSIGN(const json::object record, parse_json_object(value));
      QUAD_ASSIGN(Cluster cluster, cluster_from_json(record));
      clusters_[cluster.name] = std::move(cluster);
    }
  }
  // Readers have something to see even if the first commit fails.
  publish_snapshot(now);
  cloned_chunks_.clear();
  take_back(loaded, inventories, now);
  take_up(now);
  load_clusters(now);
  for (const engine::Inventory& inventory : inventories) {
    reconcile(inventory, now);
  }
  return {};
}

void Core::skip_to(JobId last) {
  if (last.value() > last_job_) {
    put(last, nullptr);
  }
}

void Core::take_back(const store::Loaded& loaded, const std::vector<engine::Inventory>& inventories,
                     Now now) {
  if (!loaded.taken_back) {
    return;
  }
  set_setting(std::string(store::kTakenBackSetting), "");
  for (const auto& [id, last] : loaded.lost_attempts) {
    spdlog::warn("attempts up to {} of job {} are not in the records; none of them goes on",
                 last.value(), id.value());
    apply(id, job::AttemptsLost{last}, now);
  }
  if (!loaded.strangers) {
    return;
  }
  // What runs bears numbers that mean other jobs here: neither may be taken for the other.
  for (const engine::Inventory& inventory : inventories) {
    for (const engine::Existing& one : inventory.existing) {
      if (const job::Job* job = find(one.key.job); job != nullptr) {
        apply(one.key.job, job::AttemptsLost{std::max(job->epoch(), one.key.epoch)}, now);
      }
    }
  }
}

/// Puts what waits into the queue, and keeps what ranks hold that are not dead for certain.
void Core::take_up(Now now) {
  for (std::int64_t id = 1; id <= last_job_; ++id) {
    const job::Job* job = find(JobId(id));
    if (job == nullptr) {
      continue;
    }
    for (const job::Attempt& attempt : job->attempts) {
      for (std::size_t r = 0; r < attempt.ranks.size(); ++r) {
        const job::RankRecord& rank = attempt.ranks[r];
        if (!rank.end || !rank.end->confirmed) {
          const RankKey key{job->id, attempt.epoch, Rank(static_cast<std::int32_t>(r))};
          pool_.restore(key, rank.holding);
          live_.connected(key, now);
          live_.disconnected(key);
        }
      }
    }
    if (!job::is_terminal(job->status)) {
      active_[job->request->owner].insert(job->id);
    }
    if (job->live() != nullptr) {
      live_jobs_.insert(job->id);
    } else if (!job::is_terminal(job->status)) {
      scheduler_->enqueue(*job);
    }
  }
}

/// Whatever exists had its number from this server: if the records do not know it, they have lost
/// it.
void Core::learn_from(const RankKey& key, Now now) {
  if (key.job.value() > last_job_) {
    set_setting(fmt::format("{}{}", store::kJobGapPrefix, last_job_ + 1),
                std::to_string(key.job.value()));
    skip_to(key.job);
  }
  if (const job::Job* job = find(key.job); job != nullptr && key.epoch > job->epoch()) {
    spdlog::warn("attempt {} of job {} exists, and is not in the records", key.epoch.value(),
                 key.job.value());
    apply(key.job, job::AttemptsLost{key.epoch}, now);
  }
}

void Core::reconcile(const engine::Inventory& inventory, Now now) {
  std::map<RankKey, const engine::Existing*> found;
  for (const engine::Existing& one : inventory.existing) {
    found.emplace(one.key, &one);
    learn_from(one.key, now);
  }
  struct Gone {
    RankKey key;
    job::RankEnd end;
  };
  std::vector<Gone> gone;
  std::vector<std::pair<RankKey, NodeId>> unconfirmed;
  for (std::int64_t id = 1; id <= last_job_; ++id) {
    const job::Job* job = find(JobId(id));
    if (job == nullptr) {
      continue;
    }
    for (const job::Attempt& attempt : job->attempts) {
      const bool live = job->live() == &attempt;
      for (std::size_t r = 0; r < attempt.ranks.size(); ++r) {
        const job::RankRecord& rank = attempt.ranks[r];
        const RankKey key{job->id, attempt.epoch, Rank(static_cast<std::int32_t>(r))};
        if (rank.end && rank.end->confirmed) {
          continue;  // what is left of it is forgotten below
        }
        if (engine_.engine_of(rank.holding.node) != inventory.engine ||
            (inventory.node && rank.holding.node != *inventory.node)) {
          continue;
        }
        const auto it = found.find(key);
        const engine::Existing* runner = it == found.end() ? nullptr : it->second;
        if (it != found.end()) {
          found.erase(it);
        }
        if (runner != nullptr && runner->alive) {
          // Adopted: it will say hello again by itself.
          if (live && attempt.stopping) {
            kill_at_[key] = now.mono + job->request->stop_grace + options_.start_timeout;
          } else if (live && rank.nonce.empty()) {
            kill_at_[key] = now.mono + options_.start_timeout;  // as when it was ordered
          }
        } else if (runner == nullptr && live && rank.nonce.empty() && !attempt.stopping) {
          effects_.emplace_back(
              job::StartRank{key});  // the order was recorded, but perhaps not carried out
        } else {
          job::RankEnd end;
          if (runner != nullptr && runner->result) {
            end = *runner->result;
          } else {
            end.how = rank.nonce.empty() && attempt.stopping ? job::RankEnd::How::kNeverRan
                                                             : job::RankEnd::How::kGone;
            end.detail = "its runner had ended when the server started";
          }
          // One that never said hello had no order: whatever is left of it can do nothing.
          if (runner == nullptr && !inventory.complete && !rank.nonce.empty()) {
            end.confirmed = false;
            unconfirmed.emplace_back(key, rank.holding.node);
          }
          gone.push_back({key, std::move(end)});
        }
      }
    }
  }
  for (Gone& one : gone) {
    apply(one.key.job, job::RankEnded{one.key.epoch, one.key.rank, std::move(one.end)}, now);
  }
  if (!inventory.complete) {
    forget_again(inventory);
  }
  for (const auto& [key, node] : unconfirmed) {
    engine_.kill(key, node, stop_grace_of(key.job));  // and to be told once it is certain
  }
  for (const auto& [key, runner] : found) {
    // Its end is durable, or its job is not known here at all: nothing of it may live on.
    if (runner->alive && find(key.job) == nullptr) {
      spdlog::warn("runner {} belongs to no job of this store and is killed", to_string(key));
      engine_.kill(key, runner->node, Millis(0));
    } else if (runner->alive) {
      live_.connected(key, now);
      live_.disconnected(key);
      kill_at_[key] = now.mono + options_.start_timeout;
    }
    engine_.forget(key, runner->node);
  }
}

/// What attempts left in an engine that cannot tell what is there: if the server fell between their
/// ends and their removal, nothing else would remove it. Only of those that ended shortly before
/// the last of them did: earlier ones were removed by the server that saw them end.
void Core::forget_again(const engine::Inventory& inventory) {
  constexpr Millis kLately{600'000};
  WallTime latest;
  for (std::int64_t id = 1; id <= last_job_; ++id) {
    const job::Job* job = find(JobId(id));
    if (job != nullptr && !job->attempts.empty()) {
      latest = std::max(latest, job->attempts.back().ended_at.value_or(WallTime{}));
    }
  }
  for (std::int64_t id = 1; id <= last_job_; ++id) {
    const job::Job* job = find(JobId(id));
    for (std::size_t i = 0; job != nullptr && i < job->attempts.size(); ++i) {
      const job::Attempt& attempt = job->attempts[i];
      const job::RankRecord& head = attempt.ranks.front();
      const bool is_over =
          std::all_of(attempt.ranks.begin(), attempt.ranks.end(),
                      [](const job::RankRecord& rank) { return rank.end && rank.end->confirmed; });
      if (is_over && attempt.ended_at && latest - *attempt.ended_at <= kLately &&
          engine_.engine_of(head.holding.node) == inventory.engine) {
        engine_.forget({job->id, attempt.epoch, Rank(0)}, head.holding.node);
      }
    }
  }
}

std::string Core::check() const {
  if (std::string fault = pool_.check(); !fault.empty()) {
    return fault;
  }
  for (std::int64_t id = 1; id <= last_job_; ++id) {
    if (const job::Job* job = find(JobId(id)); job != nullptr) {
      if (std::string fault = job::check(*job); !fault.empty()) {
        return fmt::format("job {}: {}", id, fault);
      }
    }
  }
  return {};
}

}  // namespace quad::control
