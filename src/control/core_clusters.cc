// Clusters: what is wanted of them, and what that takes; their nodes, as their holders' records
// have it; and the end of those that nobody uses.

#include <fmt/format.h>

#include <algorithm>

#include "control/cluster_changed.h"
#include "control/core.h"
#include "engine/clusters.h"

namespace quad::control {

namespace {

Error no_such(const std::string& name) {
  return error(ErrorCode::kNotFound,
               fmt::format("There is no cluster '{0}'; make it with `quad launch -c {0}`", name));
}

/// Why a rank of a holder is not there any more, for whoever ran on it.
std::string loss_of(const job::RankRecord& rank) {
  const job::RankEnd& end = *rank.end;
  return end.how == job::RankEnd::How::kNodeLost
             ? fmt::format("{} was lost: {}", rank.holding.node.value(), end.detail)
         : end.detail.empty()
             ? fmt::format("its runner on {} ended", rank.holding.node.value())
             : fmt::format("its runner on {} ended: {}", rank.holding.node.value(), end.detail);
}

pool::NodeSpec node_of_holder(const job::Job& holder, const job::Attempt& attempt,
                              const RankKey& key, std::string closed) {
  const job::RankRecord& rank = attempt.ranks[static_cast<std::size_t>(key.rank.value())];
  const auto& shapes = holder.request->shapes;
  pool::NodeSpec spec;
  spec.id = engine::cluster_node(holder.request->cluster, key);
  spec.address = rank.address;
  spec.capacity = rank.holding.amount;
  spec.gpu_model =
      shapes[std::min(static_cast<std::size_t>(attempt.shape), shapes.size() - 1)].gpu_model;
  spec.engine = engine::cluster_engine(holder.request->cluster);
  spec.by_name = true;
  spec.closed = std::move(closed);
  return spec;
}

}  // namespace

void Core::record_cluster(const Cluster& cluster) {
  shown_clusters_.reset();
  set_setting(std::string(kClusterSetting) + cluster.name, to_text(to_json(cluster)));
}

void Core::record_cluster_event(const Cluster& cluster, std::string kind, std::string actor,
                                std::string message, Now now) {
  job::Event event;
  event.at = now.wall;
  event.job = cluster.holder;  // whose story is the cluster's
  event.kind = std::move(kind);
  event.actor = std::move(actor);
  event.message = std::move(message);
  event.data["cluster"] = cluster.name;
  events_.push_back(std::move(event));
}

void Core::start_cluster(Cluster& cluster, job::Request holder, const std::string& by, Now now) {
  holder.owner = cluster.owner;
  cluster.wanted = Cluster::Wanted::kUp;
  cluster.wanted_by = by;
  cluster.reason.clear();
  cluster.settled = true;
  cluster.used_at = now.wall;
  cluster.launched_at = now.wall;
  cluster.holder = accept(std::move(holder), "", now);
  idle_since_.erase(cluster.name);
  record_cluster(cluster);
}

void Core::end_cluster(Cluster& cluster, Cluster::Wanted wanted, const std::string& by,
                       std::string reason, Now now) {
  if (cluster.wanted == wanted || cluster.wanted == Cluster::Wanted::kGone) {
    return;
  }
  cluster.wanted = wanted;
  cluster.wanted_by = by;
  cluster.reason = std::move(reason);
  cluster.settled = false;
  record_cluster(cluster);
  record_cluster_event(cluster, "cluster.stopping", by, cluster.reason, now);
  unsettled_clusters_.insert(cluster.name);
  unsettled_holders_.insert(cluster.holder);  // whose nodes take nothing more
}

Status Core::use_cluster(ClusterUse& use, const std::string& owner, Now now) {
  auto found = clusters_.find(use.name);
  if (found == clusters_.end()) {
    if (use.exec || !use.holder) {
      return no_such(use.name);
    }
    found = clusters_.emplace(use.name, Cluster()).first;
    Cluster& made = found->second;
    made.name = use.name;
    made.owner = owner;
    made.autostop = use.autostop;
    start_cluster(made, std::move(*use.holder), owner, now);
    record_cluster_event(made, "cluster.launched", owner,
                         fmt::format("Cluster {} was launched by {}.", use.name, owner), now);
    return {};
  }
  Cluster& cluster = found->second;
  if (cluster.owner != owner && !use.by_admin) {
    return error(ErrorCode::kDenied, fmt::format("Cluster {} belongs to {}; choose another name",
                                                 use.name, cluster.owner));
  }
  const std::string_view status = status_of(cluster, find(cluster.holder));
  if (status == "STOPPING" || cluster.wanted == Cluster::Wanted::kGone) {
    return error(ErrorCode::kExists,
                 fmt::format("Cluster {} is being {}; try again when it is", use.name,
                             cluster.wanted == Cluster::Wanted::kGone ? "taken down" : "stopped"));
  }
  if (status == "STOPPED") {
    if (use.exec) {
      return error(ErrorCode::kInvalid,
                   fmt::format("Cluster {0} is stopped; start it with `quad start {0}`", use.name));
    }
    if (!use.holder) {
      return cluster_changed(use.name);
    }
    start_cluster(cluster, std::move(*use.holder), owner, now);
    record_cluster_event(cluster, "cluster.started", owner,
                         fmt::format("Cluster {} was started by {}.", use.name, owner), now);
  } else if (use.holder) {
    // The task was read while there was no such cluster, and was not compared with this one.
    return cluster_changed(use.name);
  }
  if (use.autostop) {
    cluster.autostop = use.autostop;
    cluster.used_at = now.wall;
    idle_since_.erase(use.name);
    record_cluster(cluster);
  }
  return {};
}

void Core::handle(ChangeCluster& message, Now now) {
  using Verb = ChangeCluster::Verb;
  const auto refuse = [&](Error why) {
    answers_.emplace_back(
        [done = std::move(message.done), why = std::move(why)] { done(Status(why)); });
  };
  const auto found = clusters_.find(message.name);
  if (found == clusters_.end()) {
    return refuse(no_such(message.name));
  }
  Cluster& cluster = found->second;
  if (cluster.owner != message.by && !message.by_admin) {
    return refuse(error(ErrorCode::kDenied,
                        fmt::format("Cluster {} belongs to {}", message.name, cluster.owner)));
  }
  const std::string_view status = status_of(cluster, find(cluster.holder));
  switch (message.verb) {
    case Verb::kStop:
      end_cluster(cluster, Cluster::Wanted::kStopped, message.by,
                  fmt::format("Cluster {} is being stopped by {}.", message.name, message.by), now);
      break;
    case Verb::kDown:
      end_cluster(cluster, Cluster::Wanted::kGone, message.by,
                  fmt::format("Cluster {} is being taken down by {}.", message.name, message.by),
                  now);
      break;
    case Verb::kStart:
      if (status == "STOPPING" || cluster.wanted == Cluster::Wanted::kGone) {
        return refuse(error(
            ErrorCode::kExists,
            fmt::format("Cluster {} is still being stopped; try again when it is", message.name)));
      }
      if (status == "STOPPED") {
        if (store_failure_ || !message.holder) {
          return refuse(store_failure_ ? *store_failure_ : cluster_changed(message.name));
        }
        start_cluster(cluster, std::move(*message.holder), message.by, now);
        record_cluster_event(cluster, "cluster.started", message.by,
                             fmt::format("Cluster {} was started by {}.", message.name, message.by),
                             now);
      }
      break;
    case Verb::kAutostop:
      cluster.autostop = message.autostop;
      cluster.used_at = now.wall;
      idle_since_.erase(message.name);
      record_cluster(cluster);
      record_cluster_event(
          cluster, "cluster.autostop", message.by,
          message.autostop
              ? fmt::format("Cluster {} will be {} when it has been idle for {}, as {} asked.",
                            message.name, message.autostop->down ? "taken down" : "stopped",
                            format_duration(message.autostop->idle), message.by)
              : fmt::format("Cluster {} stays up until it is stopped, as {} asked.", message.name,
                            message.by),
          now);
      break;
  }
  answers_.emplace_back([done = std::move(message.done)] { done(Status()); });
}

void Core::handle(HolderReport& message, Now now) {
  const job::RankRecord* rank = find_rank(message.holder);
  if (rank != nullptr && !message.nonce.empty() && rank->nonce == message.nonce) {
    const std::string cluster = find(message.holder.job)->request->cluster;
    if (auto* existing = std::get_if<std::vector<engine::Existing>>(&message.what)) {
      engine::Inventory inventory{engine::cluster_engine(cluster), std::move(*existing), true,
                                  engine::cluster_node(cluster, message.holder)};
      for (engine::Existing& one : inventory.existing) {
        one.node = *inventory.node;
      }
      reconcile(inventory, now);
    } else {
      observe(std::get<engine::RunnerEnded>(message.what), now);
    }
  }
  if (message.durable) {
    answers_.push_back(std::move(message.durable));
  }
}

void Core::load_clusters(Now now) {
  for (std::int64_t id = 1; id <= last_job_; ++id) {
    const job::Job* job = find(JobId(id));
    if (job == nullptr || job->request->cluster.empty()) {
      continue;
    }
    touch_cluster(*job);
    if (job->request->kind == job::Kind::kHolder) {
      settle_holder(job->id, true, now);
      unsettled_holders_.erase(job->id);
    }
  }
  for (const auto& [name, cluster] : clusters_) {
    const job::Job* holder = find(cluster.holder);
    if (holder != nullptr && holder->status == job::Status::kRunning) {
      up_.insert(name);
    }
    unsettled_clusters_.insert(name);
  }
}

void Core::touch_cluster(const job::Job& job) {
  const std::string& name = job.request->cluster;
  if (name.empty()) {
    return;
  }
  unsettled_clusters_.insert(name);
  if (job.request->kind == job::Kind::kHolder) {
    unsettled_holders_.insert(job.id);
  } else if (!job::is_terminal(job.status)) {
    cluster_tasks_[name].insert(job.id);
  } else if (const auto tasks = cluster_tasks_.find(name); tasks != cluster_tasks_.end()) {
    tasks->second.erase(job.id);
    if (tasks->second.empty()) {
      cluster_tasks_.erase(tasks);
    }
  }
}

void Core::touch_clusters() {
  for (const auto& [name, cluster] : clusters_) {
    if (find(cluster.holder) != nullptr) {
      unsettled_holders_.insert(cluster.holder);
    }
  }
}

void Core::settle_clusters(Now now) {
  while (!unsettled_holders_.empty() || !unsettled_clusters_.empty()) {
    if (!unsettled_holders_.empty()) {
      settle_holder(unsettled_holders_.extract(unsettled_holders_.begin()).value(), false, now);
    } else {
      settle_cluster(unsettled_clusters_.extract(unsettled_clusters_.begin()).value(), now);
    }
  }
}

/// Nodes of a cluster are where ranks of its holder run, and nowhere else.
void Core::settle_holder(JobId id, bool loading, Now now) {
  const std::string name = find(id)->request->cluster;
  const auto cluster = clusters_.find(name);
  const bool wanted = cluster != clusters_.end() && cluster->second.holder == id &&
                      cluster->second.wanted == Cluster::Wanted::kUp;
  for (std::size_t a = 0; a < find(id)->attempts.size(); ++a) {
    for (std::size_t r = 0; r < find(id)->attempts[a].ranks.size(); ++r) {
      // Found again each time: what runs on a lost node changes with it.
      const job::Job& holder = *find(id);
      const job::Attempt& attempt = holder.attempts[a];
      const job::RankRecord& rank = attempt.ranks[r];
      const RankKey key{id, attempt.epoch, Rank(static_cast<std::int32_t>(r))};
      const pool::Node* machine = pool_.find(rank.holding.node);
      const pool::NodeSpec spec =
          node_of_holder(holder, attempt, key,
                         attempt.stopping || !wanted ? "its cluster is being stopped"
                         : machine != nullptr && machine->drained
                             ? fmt::format("{} is {}", rank.holding.node.value(), machine->reason)
                             : "");
      const pool::Node* known = pool_.find(spec.id);
      if (!rank.end) {
        if (attempt.running_at && (known == nullptr || known->spec != spec)) {
          pool_.put_node(spec);
          pool_changed_ = true;
        }
        continue;
      }
      if (loading && !rank.end->confirmed) {
        pool_.put_node(spec);  // somebody may still be at work there
        pool_.set_health(spec.id, pool::NodeHealth::kLost, loss_of(rank));
        known = pool_.find(spec.id);
      }
      if (known == nullptr) {
        continue;
      }
      if (!known->holdings.empty() &&
          (rank.end->confirmed || known->health != pool::NodeHealth::kLost)) {
        lose_node(spec.id, rank.end->confirmed, loss_of(rank), now);
      }
      pool_changed_ = pool_.remove_node(spec.id) || pool_changed_;
    }
  }
}

void Core::settle_cluster(const std::string& name, Now now) {
  const auto found = clusters_.find(name);
  if (found == clusters_.end()) {
    return;
  }
  Cluster& cluster = found->second;
  const job::Job* holder = find(cluster.holder);
  const bool over = holder == nullptr || job::is_terminal(holder->status);
  const bool up = !over && holder->status == job::Status::kRunning;
  const auto tasks = cluster_tasks_.find(name);
  const bool used = tasks != cluster_tasks_.end();
  const bool waits = !cluster.autostop || cluster.autostop->wait_for != Autostop::WaitFor::kNone;
  const bool came_up = up && up_.insert(name).second;
  const bool came_free = used ? (used_.insert(name), false) : used_.erase(name) > 0;
  if (!up) {
    up_.erase(name);
  }
  if (came_up || (came_free && waits)) {
    cluster.used_at = now.wall;
    idle_since_.erase(name);
    record_cluster(cluster);
  }
  if (cluster.wanted == Cluster::Wanted::kUp) {
    if (!over) {
      return;
    }
    // Its holder has ended, though nobody had asked for that.
    cluster.wanted = Cluster::Wanted::kStopped;
    cluster.wanted_by.clear();
    cluster.reason = fmt::format("Cluster {} is stopped: {}", name,
                                 holder == nullptr ? "its record is gone." : holder->message);
    cluster.settled = false;
    record_cluster(cluster);
  }
  if (used) {
    for (const JobId id : std::set<JobId>(tasks->second)) {
      if (cluster.wanted_by.empty()) {
        apply(id, job::Unplaceable{cluster.reason}, now);
      } else {
        apply(id, job::CancelAsked{cluster.wanted_by}, now);
      }
    }
    return;  // when they have ended, this goes on
  }
  if (!over) {
    apply(cluster.holder, job::CancelAsked{cluster.wanted_by}, now);
    return;
  }
  if (cluster.wanted == Cluster::Wanted::kGone) {
    record_cluster_event(cluster, "cluster.down", cluster.wanted_by,
                         fmt::format("Cluster {} is gone.", name), now);
    set_setting(std::string(kClusterSetting) + name, "");
    clusters_.erase(found);
    shown_clusters_.reset();
  } else if (!cluster.settled) {
    if (!cluster.wanted_by.empty()) {
      cluster.reason = fmt::format(
          "Cluster {} was stopped by {}. What lies on the hot tier is kept; its HOME, and what was "
          "installed there, is not.",
          name, cluster.wanted_by);
    }
    cluster.settled = true;
    record_cluster(cluster);
    record_cluster_event(cluster, "cluster.stopped",
                         cluster.wanted_by.empty() ? "control" : cluster.wanted_by, cluster.reason,
                         now);
  }
}

void Core::watch_clusters(Now now) {
  for (auto& [name, cluster] : clusters_) {
    if (!cluster.autostop || cluster.wanted != Cluster::Wanted::kUp || !up_.contains(name)) {
      continue;
    }
    const Autostop& autostop = *cluster.autostop;
    const bool busy =
        (autostop.wait_for != Autostop::WaitFor::kNone && cluster_tasks_.contains(name)) ||
        (autostop.wait_for == Autostop::WaitFor::kJobsAndSsh && has_sessions(cluster));
    if (busy) {
      idle_since_[name] = now.mono;
      continue;
    }
    // What an earlier server saw is taken from the time of day; from then on the time is counted
    // here.
    const MonoTime since =
        idle_since_.try_emplace(name, now.mono + -std::max(now.wall - cluster.used_at, Millis(0)))
            .first->second;
    if (now.mono - since < autostop.idle) {
      continue;
    }
    end_cluster(
        cluster, autostop.down ? Cluster::Wanted::kGone : Cluster::Wanted::kStopped, "autostop",
        autostop.wait_for == Autostop::WaitFor::kNone
            ? fmt::format("Cluster {} is being {}: its time of {} is over.", name,
                          autostop.down ? "taken down" : "stopped", format_duration(autostop.idle))
            : fmt::format("Cluster {} is being {}: nobody has used it for {}.", name,
                          autostop.down ? "taken down" : "stopped", format_duration(autostop.idle)),
        now);
  }
}

bool Core::has_sessions(const Cluster& cluster) const {
  return sessions_.contains(cluster.holder);
}

}  // namespace quad::control
