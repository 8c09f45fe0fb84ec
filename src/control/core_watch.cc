// What control does on its own account as time goes by: judging silent nodes, the breaker, time
// limits, and ranks that do not end when told to.

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "control/core.h"

namespace quad::control {

namespace {

/// A longer pause between two ticks means that this process itself was stopped (SIGSTOP, a
/// suspended machine): what it did not hear in that time says nothing about anybody else.
constexpr Millis kOwnPause{3'000};
constexpr Millis kBreakerWindow{60'000};

}  // namespace

std::string Core::why_away(const engine::EngineAway& away) {
  return fmt::format("its engine {}: {}", away.blind ? "does not see it" : "gives no orders",
                     away.reason);
}

void Core::tick(Now now) {
  constexpr Millis kInterval{250};
  if (last_tick_ && now.mono - *last_tick_ < kInterval) {
    return;
  }
  if (last_tick_ && now.mono - *last_tick_ > kOwnPause) {
    const Millis gap = now.mono - *last_tick_;
    spdlog::warn("this server was stopped for {}; silence in that time is not held against anybody",
                 format_duration(gap));
    for (auto& [node, silence] : silence_) {
      silence.engine_seen = silence.engine_seen + gap;
    }
    for (auto& [key, at] : kill_at_) {
      at = at + gap;
    }
    live_.shift(gap);
    for (auto& [cluster, since] : idle_since_) {
      since = since + gap;
    }
  }
  last_tick_ = now.mono;
  watch_nodes(now);
  watch_jobs(now);
  watch_clusters(now);
}

void Core::drop_removed_nodes(Now now) {
  for (auto it = silence_.begin(); it != silence_.end();) {
    if (!it->second.removed || !pool_.remove_node(it->first)) {
      ++it;
      continue;
    }
    pool_changed_ = true;
    record_node_event(it->first, "node.removed", "engine",
                      fmt::format("{} is no longer in the cluster.", it->first.value()), now);
    it = silence_.erase(it);
  }
}

void Core::watch_nodes(Now now) {
  drop_removed_nodes(now);
  std::vector<NodeId> presumed_lost;
  std::vector<Silence*> silent_together;
  std::int64_t watched = 0;
  for (auto& [id, silence] : silence_) {
    const pool::Node* node = pool_.find(id);
    if (silence.down) {
      continue;
    }
    ++watched;
    const auto away = away_.find(node->spec.engine);
    if (away != away_.end()) {
      // Its engine is blind: it is not this node that is silent.
      silence.engine_seen = now.mono;
    }
    // A beat that is late by a quarter is not late yet.
    const Millis beat = node->spec.beat + node->spec.beat / 4;
    const Millis suspect_after = std::max(options_.suspect_after, beat);
    const Millis lost_after = std::max(options_.node_lost_after, beat);
    const Millis engine_silence = now.mono - silence.engine_seen;
    const bool engine_silent = engine_silence > suspect_after;
    // The runners' channel is as fresh as the last word of any of them; without a runner there is
    // no such channel, and who has not said hello yet, as while its image is fetched, is none.
    std::optional<Millis> runner_silence;
    for (const auto& [key, holding] : node->holdings) {
      const job::RankRecord* rank = find_rank(key);
      if (rank == nullptr || rank->nonce.empty()) {
        continue;
      }
      if (const auto live = live_.find(key)) {
        const Millis silent = now.mono - live->heard;
        runner_silence = runner_silence ? std::min(*runner_silence, silent) : silent;
      }
    }
    const bool runners_silent = runner_silence && *runner_silence > options_.suspect_after;
    if (engine_silent && !silence.silent_since) {
      silence.silent_since = silence.engine_seen;
    }
    // Whoever has been silent for long was judged by itself; but who opened the breaker holds it
    // until it is back, or its death is certain.
    if (engine_silent && (silence.holds_breaker ||
                          now.mono - *silence.silent_since <= kBreakerWindow + lost_after)) {
      silent_together.push_back(&silence);
    }
    const std::string why =
        away != away_.end() ? why_away(away->second)
        : engine_silent
            ? fmt::format("the engine has not seen it for {}", format_duration(suspect_after))
        : runners_silent ? fmt::format("its ranks' heartbeats have stopped for {}",
                                       format_duration(options_.suspect_after))
                         : std::string();
    const bool suspect = !why.empty();
    const bool ready = node->health == pool::NodeHealth::kReady;
    if (suspect && (ready || (node->health == pool::NodeHealth::kSuspect && node->reason != why))) {
      pool_.set_health(id, pool::NodeHealth::kSuspect, why);
      pool_changed_ = true;
      if (ready) {
        record_node_event(
            id, "node.suspect", "control",
            fmt::format("{} is suspect: {}; nothing new starts there.", id.value(), why), now);
      }
    } else if (!suspect && !ready) {
      pool_.set_health(id, pool::NodeHealth::kReady, "");
      pool_changed_ = true;
      if (!std::exchange(silence.found_away, false)) {
        record_node_event(id, "node.ready", "control", fmt::format("{} is back.", id.value()), now);
      }
    }
    if (engine_silence > lost_after && node->health != pool::NodeHealth::kLost &&
        (!runner_silence || *runner_silence > options_.node_lost_after)) {
      presumed_lost.push_back(id);
    }
  }
  // More than a quarter of the nodes, and more than one, silent at about the same time: it is more
  // likely that this server is the one cut off.
  const auto silent_nodes = static_cast<std::int64_t>(silent_together.size());
  const bool cut_off = silent_nodes > 1 && silent_nodes * 4 > watched;
  for (Silence* silence : silent_together) {
    if (std::exchange(silence->holds_breaker, cut_off) && !cut_off) {
      // Enough of the others are back. Those who fell silent together come back within seconds of
      // each other, not at the same moment: the last of them is no lost node yet.
      silence->spared_until = now.mono + options_.node_lost_after;
    }
  }
  const std::string text =
      cut_off ? fmt::format(
                    "{} of {} nodes fell silent at about the same time, so this server may be the "
                    "one that is "
                    "cut off: it starts nothing and gives up nothing until they are back",
                    silent_nodes, watched)
              : std::string();
  if (cut_off != !breaker_.empty()) {
    job::Event event;
    event.at = now.wall;
    event.kind = cut_off ? "breaker.opened" : "breaker.closed";
    event.actor = "control";
    event.message = cut_off ? text + "." : "The nodes are back; work goes on.";
    events_.push_back(std::move(event));
  }
  if (text != breaker_) {
    breaker_ = text;
    pool_changed_ = true;
  }
  if (!breaker_.empty()) {
    return;
  }
  for (const NodeId& id : presumed_lost) {
    if (now.mono < silence_.at(id).spared_until) {
      continue;
    }
    lose_node(id, false,
              fmt::format("neither it nor its ranks have been heard for {}",
                          format_duration(options_.node_lost_after)),
              now);
  }
}

/// Of a job whose live attempt runs. To be asked at each tick: from the second time on it is
/// counted here, and only what an earlier server saw is taken from the times of day in the records.
Millis Core::running_time(const job::Job& job, Now now) {
  const Epoch epoch = job.live()->epoch;
  const auto [it, fresh] = run_clocks_.try_emplace(job.id);
  RunClock& clock = it->second;
  if (fresh) {
    for (const job::Attempt& each : job.attempts) {
      if (each.running_at) {
        clock.used += std::max(each.ended_at.value_or(now.wall) - *each.running_at, Millis(0));
      }
    }
  } else if (clock.epoch == epoch) {
    clock.used += now.mono - clock.at;
  }
  clock.epoch = epoch;
  clock.at = now.mono;
  return clock.used;
}

void Core::watch_jobs(Now now) {
  std::vector<JobId> over;
  for (const JobId id : live_jobs_) {
    const job::Job* job = find(id);
    const job::Attempt* attempt = job->live();
    if (!job->request->max_duration || attempt == nullptr || !attempt->running_at ||
        attempt->stopping) {
      continue;
    }
    if (running_time(*job, now) > *job->request->max_duration) {
      over.push_back(id);
    }
  }
  for (const JobId id : over) {
    apply(id, job::DurationExceeded{}, now);
  }
  std::vector<RankKey> unexplained;
  for (const auto& [key, held] : held_ends_) {
    if (held.until <= now.mono) {
      unexplained.push_back(key);
    }
  }
  for (const RankKey& key : unexplained) {
    release_end(key, now);
  }
  if (!breaker_.empty()) {
    return;
  }
  for (auto it = kill_at_.begin(); it != kill_at_.end();) {
    if (it->second > now.mono) {
      ++it;
    } else if (away_.contains(engine_.engine_of(node_of(it->first)))) {
      ++it;  // it cannot be killed now, nor could it start
    } else {
      spdlog::warn("rank {} did not answer in time and is killed", to_string(it->first));
      engine_.kill(it->first, node_of(it->first), stop_grace_of(it->first.job));
      it = kill_at_.erase(it);
    }
  }
}

}  // namespace quad::control
