#include "engine/engines.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"

namespace quad::engine {

namespace {

/// What an engine says of its nodes, in the names that are used outside it.
class Outward {
 public:
  Outward(std::string engine, std::string prefix)
      : engine_(std::move(engine)), prefix_(std::move(prefix)) {}

  void operator()(NodeFound& found) const {
    name(found.spec.id);
    found.spec.engine = engine_;
  }
  void operator()(NodeSeen& seen) const { name(seen.node); }
  void operator()(NodeDown& down) const { name(down.node); }
  void operator()(NodeBack& back) const { name(back.node); }
  void operator()(RunnerEnded& /*ended*/) const {}
  void operator()(RankTaken& /*taken*/) const {}
  void operator()(StartFailed& /*failed*/) const {}
  void operator()(StartWaits& /*waits*/) const {}
  void operator()(Inventory& inventory) const {
    inventory.engine = engine_;
    for (Existing& one : inventory.existing) {
      name(one.node);
    }
  }
  void operator()(EngineAway& away) const { away.engine = engine_; }

 private:
  void name(NodeId& node) const { node = NodeId(prefix_ + node.value()); }

  std::string engine_;
  std::string prefix_;
};

class Engines final : public Engine {
 public:
  explicit Engines(std::vector<Named> engines) : engines_(std::move(engines)) {
    QUAD_CHECK(!engines_.empty(), "a server without an engine");
  }

  Result<std::vector<Inventory>> begin(Sink sink) override {
    std::vector<Inventory> inventories;
    for (std::size_t i = 0; i < engines_.size(); ++i) {
      const Outward outward(engines_[i].name, prefix(i));
      auto begun = engines_[i].engine->begin([sink, outward](Observation seen) {
        std::visit(outward, seen);
        sink(std::move(seen));
      });
      if (!begun.ok()) {
        while (i-- > 0) {
          engines_[i].engine->end();
        }
        return begun.error();
      }
      for (Inventory& inventory : *begun) {
        outward(inventory);
        inventories.push_back(std::move(inventory));
      }
    }
    return inventories;
  }

  [[nodiscard]] std::string engine_of(const NodeId& node) const override {
    return engines_[index_of(node)].name;
  }

  void start(const StartOrder& order) override {
    StartOrder inner = order;
    inner.holding.node = inner_name(order.holding.node);
    of(order.holding.node).start(inner);
  }
  void kill(const RankKey& key, const NodeId& node, Millis grace) override {
    of(node).kill(key, inner_name(node), grace);
  }
  void forget(const RankKey& key, const NodeId& node) override {
    of(node).forget(key, inner_name(node));
  }
  Status node_action(const NodeId& node, const std::string& verb) override {
    return of(node).node_action(inner_name(node), verb);
  }
  void end() override {
    for (Named& one : engines_) {
      one.engine->end();
    }
  }

 private:
  [[nodiscard]] std::string prefix(std::size_t index) const {
    return index == 0 ? std::string() : engines_[index].name + ':';
  }
  /// The first, where no other's prefix stands before the name: also of an engine that is
  /// configured no more.
  [[nodiscard]] std::size_t index_of(const NodeId& node) const {
    for (std::size_t i = 1; i < engines_.size(); ++i) {
      if (node.value().starts_with(prefix(i))) {
        return i;
      }
    }
    return 0;
  }
  [[nodiscard]] Engine& of(const NodeId& node) const { return *engines_[index_of(node)].engine; }
  [[nodiscard]] NodeId inner_name(const NodeId& node) const {
    return NodeId(node.value().substr(prefix(index_of(node)).size()));
  }

  std::vector<Named> engines_;
};

}  // namespace

std::unique_ptr<Engine> join(std::vector<Named> engines) {
  return std::make_unique<Engines>(std::move(engines));
}

}  // namespace quad::engine
