#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <tuple>

#include "base/text.h"
#include "plan/scheduler.h"

namespace quad::plan {

namespace {

/// What makes two waiting jobs the same to the planner. They share one answer, so a pass costs
/// O(groups × nodes), and ten thousand equal jobs are one group.
struct GroupKey {
  std::int32_t ranks = 1;
  std::vector<job::Shape> shapes;
  std::vector<NodeId> exclude;  ///< never these
  std::vector<NodeId> avoid;    ///< not these, unless nothing else could hold the job

  [[nodiscard]] auto tied() const {
    std::vector<std::tuple<std::int64_t, std::int64_t, std::int32_t,
                           std::map<std::string, std::int64_t>, std::string, std::string>>
        flat;
    for (const job::Shape& shape : shapes) {
      flat.emplace_back(shape.per_rank.cpu_milli, shape.per_rank.memory_bytes, shape.per_rank.gpus,
                        shape.per_rank.devices, shape.gpu_model, shape.engine);
    }
    return std::make_tuple(ranks, std::move(flat), exclude, avoid);
  }
  bool operator<(const GroupKey& other) const { return tied() < other.tied(); }
};

struct Group {
  GroupKey key;
  std::size_t members = 0;
};

using Groups = std::map<GroupKey, Group>;

struct Waiting {
  std::int32_t priority = 0;
  std::string owner;
  bool again = false;  ///< it has run before
  Epoch next_epoch;
  Groups::iterator group;
};

/// Those of one priority.
struct Line {
  std::set<JobId> again;  ///< jobs that lost their place go before all others
  std::map<std::string, std::set<JobId>> users;  ///< by owner
};

bool contains(const std::vector<NodeId>& ids, const NodeId& id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

/// How many ranks of `amount` go into `room`.
std::int64_t copies(const pool::Resources& room, const pool::Resources& amount,
                    std::int64_t wanted) {
  std::int64_t count = wanted;
  if (amount.cpu_milli > 0) {
    count = std::min(count, room.cpu_milli / amount.cpu_milli);
  }
  if (amount.memory_bytes > 0) {
    count = std::min(count, room.memory_bytes / amount.memory_bytes);
  }
  if (amount.gpus > 0) {
    count = std::min<std::int64_t>(count, room.gpus / amount.gpus);
  }
  for (const auto& [name, each] : amount.devices) {
    const auto there = room.devices.find(name);
    count = std::min(count, there == room.devices.end() ? 0 : there->second / each);
  }
  return std::max<std::int64_t>(count, 0);
}

bool right_model(const pool::Node& node, const job::Shape& shape) {
  return shape.per_rank.gpus == 0 || shape.gpu_model.empty() ||
         node.spec.gpu_model == shape.gpu_model;
}

bool has_devices(const pool::Node& node, const job::Shape& shape) {
  const auto& devices = shape.per_rank.devices;
  return std::all_of(devices.begin(), devices.end(), [&](const auto& one) {
    return node.spec.capacity.devices.contains(one.first);
  });
}

/// "1 rdma/hca", or "1 nvidia.com/mig-1g.5gb and 2 rdma/hca".
std::string describe_devices(const job::Shape& shape) {
  std::vector<std::string> all;
  for (const auto& [name, count] : shape.per_rank.devices) {
    all.push_back(fmt::format("{} {}", count, name));
  }
  return join_words({all.begin(), all.end()});
}

std::string describe(const job::Shape& shape) {
  const std::string devices = describe_devices(shape);
  if (shape.per_rank.gpus > 0) {
    return fmt::format("{} {}{}{}", shape.per_rank.gpus,
                       shape.gpu_model.empty() ? "GPUs" : shape.gpu_model,
                       devices.empty() ? "" : " and ", devices);
  }
  if (!devices.empty()) {
    return devices;
  }
  return fmt::format("{:g} CPUs and {:.1f} GiB",
                     static_cast<double>(shape.per_rank.cpu_milli) / 1000.0,
                     static_cast<double>(shape.per_rank.memory_bytes) / (1024.0 * 1024 * 1024));
}

class Fifo final : public Scheduler {
 public:
  explicit Fifo(Turns turns) : turns_(std::move(turns)) {}
  void enqueue(const job::Job& job) override;
  void remove(JobId job) override;
  std::vector<Start> decide(pool::Pool& pool, const std::string& frozen) override;
  std::shared_ptr<const Queue> queue() override;
  [[nodiscard]] std::size_t waiting() const override { return waiting_.size(); }

 private:
  /// One group's fate in one pass.
  struct Outcome {
    bool failed = false;
    Why why;
  };

  [[nodiscard]] static bool eligible(const pool::Node& node, const GroupKey& key,
                                     const job::Shape& shape, bool use_avoided);
  /// Whether the nodes that there are, all empty and healthy, could hold the gang.
  [[nodiscard]] static bool possible(const pool::Pool& pool, const GroupKey& key,
                                     const job::Shape& shape, bool use_avoided);
  static std::optional<std::vector<pool::Holding>> place(pool::Pool& pool,
                                                         const std::set<NodeId>& reserved,
                                                         const GroupKey& key,
                                                         const job::Shape& shape, bool use_avoided,
                                                         JobId job, Epoch epoch);
  static Why explain(const pool::Pool& pool, const std::set<NodeId>& reserved, const GroupKey& key,
                     bool use_avoided, const std::string& frozen);

  /// Calls `visit` for each waiting job in order until it returns false. It may remove the job that
  /// it is given, and no other.
  template <typename Visit>
  void in_order(const Visit& visit) const;

  Groups groups_;
  std::map<JobId, Waiting> waiting_;
  std::map<std::int32_t, Line, std::greater<>> lines_;  ///< by priority
  Turns turns_;
  std::map<GroupKey, Why> answers_;  ///< of the last pass
  std::shared_ptr<const Queue> queue_;
  bool stale_ = true;
};

void Fifo::enqueue(const job::Job& job) {
  remove(job.id);
  GroupKey key{job.request->ranks, job.request->shapes, job.request->exclude_nodes,
               job.avoid_nodes};
  const auto group = groups_.try_emplace(key, Group{key, 0}).first;
  ++group->second.members;
  const bool again = job.epoch().value() > 0;
  waiting_.emplace(job.id, Waiting{job.request->priority, job.request->owner, again,
                                   Epoch(job.epoch().value() + 1), group});
  Line& line = lines_[job.request->priority];
  (again ? line.again : line.users[job.request->owner]).insert(job.id);
  stale_ = true;
}

void Fifo::remove(JobId job) {
  const auto it = waiting_.find(job);
  if (it == waiting_.end()) {
    return;
  }
  Line& line = lines_.at(it->second.priority);
  (it->second.again ? line.again : line.users.at(it->second.owner)).erase(job);
  if (--it->second.group->second.members == 0) {
    answers_.erase(it->second.group->first);
    groups_.erase(it->second.group);
  }
  waiting_.erase(it);
  stale_ = true;
}

template <typename Visit>
void Fifo::in_order(const Visit& visit) const {
  struct Turn {
    std::uint64_t last = 0;
    JobId head;
    std::set<JobId>::const_iterator next;
    std::set<JobId>::const_iterator end;
  };
  for (const auto& [priority, line] : lines_) {
    for (auto it = line.again.begin(); it != line.again.end();) {
      if (!visit(*it++)) {
        return;
      }
    }
    std::vector<Turn> turns;
    for (const auto& [owner, jobs] : line.users) {
      if (!jobs.empty()) {
        turns.push_back({turns_.of(owner), *jobs.begin(), jobs.begin(), jobs.end()});
      }
    }
    std::sort(turns.begin(), turns.end(), [](const Turn& a, const Turn& b) {
      return std::tie(a.last, a.head) < std::tie(b.last, b.head);
    });
    while (!turns.empty()) {
      for (Turn& turn : turns) {
        if (!visit(*turn.next++)) {
          return;
        }
      }
      std::erase_if(turns, [](const Turn& turn) { return turn.next == turn.end; });
    }
  }
}

bool Fifo::eligible(const pool::Node& node, const GroupKey& key, const job::Shape& shape,
                    bool use_avoided) {
  const bool plain = shape.per_rank.gpus == 0 && shape.per_rank.devices.empty();
  const bool right_engine =
      shape.engine.empty() ? !node.spec.by_name : node.spec.engine == shape.engine;
  return right_model(node, shape) && right_engine && !(plain && node.spec.only_gpus) &&
         !contains(key.exclude, node.spec.id) &&
         (use_avoided || !contains(key.avoid, node.spec.id));
}

bool Fifo::possible(const pool::Pool& pool, const GroupKey& key, const job::Shape& shape,
                    bool use_avoided) {
  std::map<std::string_view, std::int64_t> room;
  for (const auto& [id, node] : pool.nodes()) {
    if (eligible(node, key, shape, use_avoided)) {
      room[node.spec.engine] += copies(node.spec.capacity, shape.per_rank, key.ranks);
    }
  }
  return std::any_of(room.begin(), room.end(),
                     [&](const auto& one) { return one.second >= key.ranks; });
}

std::optional<std::vector<pool::Holding>> Fifo::place(pool::Pool& pool,
                                                      const std::set<NodeId>& reserved,
                                                      const GroupKey& key, const job::Shape& shape,
                                                      bool use_avoided, JobId job, Epoch epoch) {
  // Ranks go to as many nodes as there are, one each in name order, and share nodes only when they
  // must: that is what a user of num_nodes expects.
  struct Room {
    std::vector<std::pair<NodeId, std::int64_t>> nodes;
    std::int64_t total = 0;
  };
  std::map<std::string_view, Room> engines;
  for (const auto& [id, node] : pool.nodes()) {
    if (node.schedulable() && !reserved.contains(id) && eligible(node, key, shape, use_avoided)) {
      const std::int64_t room = copies(node.free, shape.per_rank, key.ranks);
      if (room > 0) {
        engines[node.spec.engine].nodes.emplace_back(id, room);
        engines[node.spec.engine].total += room;
      }
    }
  }
  const auto engine = std::find_if(engines.begin(), engines.end(),
                                   [&](const auto& one) { return one.second.total >= key.ranks; });
  if (engine == engines.end()) {
    return std::nullopt;
  }
  auto& rooms = engine->second.nodes;
  std::vector<NodeId> chosen;
  while (chosen.size() < static_cast<std::size_t>(key.ranks)) {
    for (auto& [id, room] : rooms) {
      if (room > 0 && chosen.size() < static_cast<std::size_t>(key.ranks)) {
        chosen.push_back(id);
        --room;
      }
    }
  }
  std::sort(chosen.begin(), chosen.end());
  std::vector<pool::Holding> holdings;
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    auto held = pool.hold(RankKey{job, epoch, Rank(static_cast<std::int32_t>(i))}, chosen[i],
                          shape.per_rank);
    if (!held.ok()) {
      for (std::size_t j = 0; j < i; ++j) {
        pool.release(RankKey{job, epoch, Rank(static_cast<std::int32_t>(j))});
      }
      return std::nullopt;
    }
    holdings.push_back(std::move(held).value());
  }
  return holdings;
}

Why Fifo::explain(const pool::Pool& pool, const std::set<NodeId>& reserved, const GroupKey& key,
                  bool use_avoided, const std::string& frozen) {
  Why why;
  const job::Shape& shape = key.shapes.front();
  std::int64_t fitting = 0;
  std::int64_t healthy = 0;
  std::int64_t open = 0;
  std::int64_t free = 0;
  std::int64_t model = 0;
  std::int64_t devices = 0;
  std::int64_t room = 0;
  std::int64_t nodes = 0;
  for (const auto& [id, node] : pool.nodes()) {
    // Whoever does not ask for a cluster knows nothing of its nodes, and the other way round.
    if (shape.engine.empty() ? node.spec.by_name : node.spec.engine != shape.engine) {
      continue;
    }
    ++nodes;
    const bool right =
        right_model(node, shape) && (shape.per_rank.gpus == 0 || node.spec.capacity.gpus > 0);
    model += right ? 1 : 0;
    devices += right && has_devices(node, shape) ? 1 : 0;
    if (!eligible(node, key, shape, use_avoided) ||
        copies(node.spec.capacity, shape.per_rank, 1) == 0) {
      continue;
    }
    ++fitting;
    if (!node.schedulable()) {
      continue;
    }
    ++healthy;
    if (reserved.contains(id)) {
      continue;
    }
    ++open;
    const std::int64_t here = copies(node.free, shape.per_rank, key.ranks);
    free += here > 0 ? 1 : 0;
    room += here;
  }
  why.funnel.push_back({"nodes", nodes});
  if (shape.per_rank.gpus > 0) {
    why.funnel.push_back(
        {fmt::format("with {}", shape.gpu_model.empty() ? "GPUs" : shape.gpu_model), model});
  }
  if (!shape.per_rank.devices.empty()) {
    why.funnel.push_back({fmt::format("with {}", describe_devices(shape)), devices});
  }
  why.funnel.push_back({fmt::format("large enough for {}", describe(shape)), fitting});
  why.funnel.push_back({"healthy and open for work", healthy});
  why.funnel.push_back({"not kept for a job that is ahead", open});
  why.funnel.push_back({fmt::format("with {} free", describe(shape)), free});
  const std::string need = key.ranks == 1
                               ? describe(shape)
                               : fmt::format("{} on each of {} nodes", describe(shape), key.ranks);
  bool any_possible = false;
  for (const job::Shape& each : key.shapes) {
    any_possible = any_possible || possible(pool, key, each, use_avoided);
  }
  if (!frozen.empty()) {
    why.code = "breaker";
    why.message = frozen;
  } else if (!shape.engine.empty() && nodes == 0) {
    why.code = "engine_has_no_nodes";
    why.message = fmt::format("It waits for {}, which has no nodes yet.", shape.engine);
  } else if (!any_possible) {
    why.impossible = true;
    why.code = "no_node_fits";
    why.message =
        nodes == 1
            ? fmt::format(
                  "It needs {}; the one node there is could not hold that even if it were free.",
                  need)
            : fmt::format(
                  "It needs {}; the {} nodes there are could not hold that even if all were free.",
                  need, nodes);
  } else if (room >= key.ranks || open < healthy) {
    why.code = "behind_others";
    why.message =
        fmt::format("It needs {}; the free nodes are kept for jobs that are ahead of it.", need);
  } else {
    why.code = "waiting_for_resources";
    const std::string now = key.ranks == 1 ? std::string("No node has that free now")
                            : room == 0
                                ? std::string("No node has that free for even one of them now")
                                : fmt::format("There is room for {} of them now", room);
    why.message =
        fmt::format("It needs {}. {}; {} large enough{}.", need, now,
                    fitting == 1 ? std::string("1 node is") : fmt::format("{} nodes are", fitting),
                    healthy == fitting ? ""
                                       : fmt::format(", and {} of {} healthy and open for work",
                                                     healthy, fitting == 1 ? "it" : "them"));
  }
  return why;
}

std::vector<Start> Fifo::decide(pool::Pool& pool, const std::string& frozen) {
  std::vector<Start> starts;
  std::set<NodeId> reserved;
  std::set<const Group*> failed;
  answers_.clear();
  in_order([&](JobId id) {
    const Waiting& waiting = waiting_.at(id);
    const Group* group = &waiting.group->second;
    if (failed.contains(group)) {
      return true;
    }
    const GroupKey& key = group->key;
    // Nodes that failed this job are avoided for as long as the others could hold it.
    const bool use_avoided =
        std::none_of(key.shapes.begin(), key.shapes.end(),
                     [&](const job::Shape& shape) { return possible(pool, key, shape, false); });
    std::optional<Start> start;
    if (frozen.empty()) {
      for (std::size_t s = 0; s < key.shapes.size() && !start; ++s) {
        if (auto holdings =
                place(pool, reserved, key, key.shapes[s], use_avoided, id, waiting.next_epoch)) {
          start = Start{id, waiting.next_epoch, static_cast<std::int32_t>(s), std::move(*holdings)};
        }
      }
    }
    if (start) {
      if (!waiting.again) {
        turns_.took(waiting.owner);
      }
      remove(id);
      starts.push_back(std::move(*start));
      return failed.size() < groups_.size();
    }
    failed.insert(group);
    const Why& why = answers_[key] = explain(pool, reserved, key, use_avoided, frozen);
    stale_ = true;
    if (!why.impossible) {
      for (const auto& [node_id, node] : pool.nodes()) {
        for (const job::Shape& shape : key.shapes) {
          if (eligible(node, key, shape, use_avoided) &&
              copies(node.spec.capacity, shape.per_rank, 1) > 0) {
            reserved.insert(node_id);
          }
        }
      }
    }
    return failed.size() < groups_.size();
  });
  for (auto& [priority, line] : lines_) {
    std::erase_if(line.users, [](const auto& user) { return user.second.empty(); });
  }
  std::erase_if(lines_, [](const auto& entry) {
    return entry.second.again.empty() && entry.second.users.empty();
  });
  return starts;
}

std::shared_ptr<const Queue> Fifo::queue() {
  if (!stale_ && queue_) {
    return queue_;
  }
  auto queue = std::make_shared<Queue>();
  std::map<const Group*, std::uint32_t> numbers;
  queue->order.reserve(waiting_.size());
  queue->group.reserve(waiting_.size());
  queue->turns = turns_;
  in_order([&](JobId id) {
    const auto& group = waiting_.at(id).group;
    const auto [number, fresh] =
        numbers.try_emplace(&group->second, static_cast<std::uint32_t>(numbers.size()));
    if (fresh) {
      const auto answer = answers_.find(group->first);
      queue->groups.push_back(answer == answers_.end()
                                  ? Why{.message = "Not looked at yet.", .code = "new"}
                                  : answer->second);
    }
    queue->order.push_back(id);
    queue->group.push_back(number->second);
    return true;
  });
  stale_ = false;
  queue_ = std::move(queue);
  return queue_;
}

}  // namespace

std::optional<Why> Queue::why(JobId job) const {
  const auto it = std::find(order.begin(), order.end(), job);
  if (it == order.end()) {
    return std::nullopt;
  }
  const auto at = static_cast<std::size_t>(it - order.begin());
  Why why = groups[group[at]];
  why.ahead = static_cast<std::int64_t>(at);
  why.position = why.ahead + 1;
  return why;
}

std::unique_ptr<Scheduler> make_fifo(Turns turns) {
  return std::make_unique<Fifo>(std::move(turns));
}

}  // namespace quad::plan
