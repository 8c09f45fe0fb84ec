#include "server/foresee.h"

#include <memory>

namespace quad::server {

std::vector<Foresight> foresee(const control::Snapshot& snapshot,
                               const std::vector<job::Request>& requests) {
  const auto scheduler =
      plan::make_fifo(snapshot.queue == nullptr ? plan::Turns() : snapshot.queue->turns);
  if (snapshot.queue != nullptr) {
    for (const JobId id : snapshot.queue->order) {
      if (const auto waiting = snapshot.find(id)) {
        scheduler->enqueue(*waiting);
      }
    }
  }
  const std::int64_t first = snapshot.last_job() + 1;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    job::Job job;
    job.id = JobId(first + static_cast<std::int64_t>(i));
    job.request = std::make_shared<const job::Request>(requests[i]);
    scheduler->enqueue(job);
  }
  pool::Pool pool = snapshot.pool;
  const auto starts = scheduler->decide(pool, snapshot.breaker);
  const auto queue = scheduler->queue();
  std::vector<Foresight> all(requests.size());
  for (const plan::Start& start : starts) {
    if (start.job.value() >= first) {
      Foresight& one = all[static_cast<std::size_t>(start.job.value() - first)];
      for (const pool::Holding& holding : start.holdings) {
        one.nodes.push_back(holding.node);
      }
      one.holdings = start.holdings;
      one.shape = start.shape;
    }
  }
  // Not queue->why() for each, which looks through the whole queue.
  for (std::size_t at = 0; at < queue->order.size(); ++at) {
    if (queue->order[at].value() >= first) {
      plan::Why why = queue->groups[queue->group[at]];
      why.ahead = static_cast<std::int64_t>(at);
      why.position = why.ahead + 1;
      all[static_cast<std::size_t>(queue->order[at].value() - first)].why = std::move(why);
    }
  }
  return all;
}

job::Job job_started(const job::Request& request, const Foresight& foresight) {
  job::Job job;
  job.id = JobId(0);
  job.request = std::make_shared<const job::Request>(request);
  job::Attempt attempt;
  attempt.epoch = Epoch(1);
  attempt.shape = foresight.shape;
  for (const pool::Holding& holding : foresight.holdings) {
    job::RankRecord rank;
    rank.holding = holding;
    attempt.ranks.push_back(std::move(rank));
  }
  job.attempts.push_back(std::move(attempt));
  return job;
}

void put_why(json::object& view, const plan::Why& why) {
  view["code"] = why.code;
  view["message"] = why.message;
  view["position"] = why.position;
  view["ahead"] = why.ahead;
  view["impossible"] = why.impossible;
  json::array funnel;
  for (const plan::FunnelStep& step : why.funnel) {
    funnel.push_back(json::object{{"condition", step.condition}, {"nodes", step.nodes}});
  }
  view["funnel"] = std::move(funnel);
}

json::object to_json(const Foresight& foresight) {
  json::array nodes;
  for (const NodeId& node : foresight.nodes) {
    nodes.emplace_back(node.value());
  }
  json::object view;
  view["starts"] = !foresight.nodes.empty();
  view["nodes"] = std::move(nodes);
  view["why"] = nullptr;
  if (foresight.why) {
    json::object why;
    put_why(why, *foresight.why);
    view["why"] = std::move(why);
  }
  return view;
}

}  // namespace quad::server
