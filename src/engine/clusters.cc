#include "engine/clusters.h"

#include <fmt/format.h>

#include <utility>

#include "base/text.h"

namespace quad::engine {

namespace {

class Clusters final : public Engine {
 public:
  Clusters(std::unique_ptr<Engine> machines, Holders holders)
      : machines_(std::move(machines)), holders_(std::move(holders)) {}

  Result<std::vector<Inventory>> begin(Sink sink) override {
    return machines_->begin(std::move(sink));
  }
  [[nodiscard]] std::string engine_of(const NodeId& node) const override {
    const auto held = parse_cluster_node(node);
    return held ? cluster_engine(held->cluster) : machines_->engine_of(node);
  }
  void start(const StartOrder& order) override {
    if (const auto held = parse_cluster_node(order.holding.node)) {
      holders_.start(held->holder, order);
    } else {
      machines_->start(order);
    }
  }
  void kill(const RankKey& key, const NodeId& node, Millis grace) override {
    if (const auto held = parse_cluster_node(node)) {
      holders_.kill(held->holder, key);
    } else {
      machines_->kill(key, node, grace);
    }
  }
  void forget(const RankKey& key, const NodeId& node) override {
    if (const auto held = parse_cluster_node(node)) {
      holders_.forget(held->holder, key);
    } else {
      machines_->forget(key, node);
    }
  }
  Status node_action(const NodeId& node, const std::string& verb) override {
    if (const auto held = parse_cluster_node(node)) {
      return error(ErrorCode::kUnsupported,
                   fmt::format("{} is a node of cluster {}, not a machine; name the machine that "
                               "it is on",
                               node.value(), held->cluster));
    }
    return machines_->node_action(node, verb);
  }
  void end() override { machines_->end(); }

 private:
  std::unique_ptr<Engine> machines_;
  Holders holders_;
};

}  // namespace

NodeId cluster_node(std::string_view cluster, const RankKey& holder) {
  return NodeId(fmt::format("{}:{}@{}.{}", cluster, holder.rank.value(), holder.job.value(),
                            holder.epoch.value()));
}

std::optional<ClusterNode> parse_cluster_node(const NodeId& node) {
  const std::string_view text = node.value();
  const std::size_t at = text.rfind('@');
  if (at == std::string_view::npos) {
    return std::nullopt;
  }
  const std::size_t colon = text.rfind(':', at);
  const std::size_t dot = text.find('.', at);
  if (colon == std::string_view::npos || dot == std::string_view::npos) {
    return std::nullopt;
  }
  const auto rank = parse_number<std::int32_t>(text.substr(colon + 1, at - colon - 1));
  const auto job = parse_number(text.substr(at + 1, dot - at - 1));
  const auto epoch = parse_number<std::int32_t>(text.substr(dot + 1));
  if (!rank || !job || !epoch) {
    return std::nullopt;
  }
  return ClusterNode{std::string(text.substr(0, colon)),
                     RankKey{JobId(*job), Epoch(*epoch), Rank(*rank)}};
}

std::string cluster_engine(std::string_view cluster) {
  return fmt::format("cluster {}", cluster);
}

std::unique_ptr<Engine> with_clusters(std::unique_ptr<Engine> machines, Holders holders) {
  return std::make_unique<Clusters>(std::move(machines), std::move(holders));
}

}  // namespace quad::engine
