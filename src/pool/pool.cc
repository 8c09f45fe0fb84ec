#include "pool/pool.h"

#include <fmt/format.h>

#include <algorithm>

namespace quad::pool {

namespace {

void take(Node& node, const Resources& amount) {
  node.free.add(amount, -1);
}

void mark_gpus(Node& node, const Holding& holding, bool used) {
  for (const std::int32_t index : holding.gpu_indices) {
    const auto at = static_cast<std::size_t>(index);
    if (at >= node.gpu_used.size()) {
      node.gpu_used.resize(at + 1);
    }
    node.gpu_used[at] = used;
  }
}

}  // namespace

void Resources::add(const Resources& more, std::int64_t times) {
  cpu_milli += more.cpu_milli * times;
  memory_bytes += more.memory_bytes * times;
  gpus += static_cast<std::int32_t>(more.gpus * times);
  for (const auto& [name, count] : more.devices) {
    const auto there = devices.try_emplace(name, 0).first;
    there->second += count * times;
    if (there->second == 0) {
      devices.erase(there);
    }
  }
}

std::string_view to_string(NodeHealth health) {
  switch (health) {
    case NodeHealth::kReady:
      return "ready";
    case NodeHealth::kSuspect:
      return "suspect";
    case NodeHealth::kLost:
      return "lost";
  }
  return "lost";
}

void Pool::put_node(const NodeSpec& spec) {
  Node& node = nodes_[spec.id];
  node.spec = spec;
  node.free = spec.capacity;
  take(node, spec.reserved);
  node.gpu_used.assign(static_cast<std::size_t>(spec.capacity.gpus), false);
  for (auto it = homeless_.begin(); it != homeless_.end();) {
    if (it->second.node == spec.id) {
      node.holdings.insert(homeless_.extract(it++));
    } else {
      ++it;
    }
  }
  for (const auto& [key, holding] : node.holdings) {
    take(node, holding.amount);
    mark_gpus(node, holding, true);
  }
}

bool Pool::remove_node(const NodeId& id) {
  const auto it = nodes_.find(id);
  if (it == nodes_.end()) {
    return true;
  }
  if (!it->second.holdings.empty()) {
    return false;
  }
  nodes_.erase(it);
  return true;
}

const Node* Pool::find(const NodeId& id) const {
  const auto it = nodes_.find(id);
  return it == nodes_.end() ? nullptr : &it->second;
}

std::vector<RankKey> Pool::holders_on(const NodeId& id) const {
  std::vector<RankKey> keys;
  for (const auto& [key, node] : holders_) {
    if (node == id) {
      keys.push_back(key);
    }
  }
  return keys;
}

void Pool::set_health(const NodeId& id, NodeHealth health, std::string reason) {
  if (const auto it = nodes_.find(id); it != nodes_.end()) {
    it->second.health = health;
    it->second.reason = std::move(reason);
  }
}

void Pool::set_drained(const NodeId& id, bool drained, std::string reason) {
  if (const auto it = nodes_.find(id); it != nodes_.end()) {
    it->second.drained = drained;
    it->second.reason = std::move(reason);
  }
}

bool Pool::fits(const Node& node, const Resources& amount) {
  return amount.cpu_milli <= node.free.cpu_milli && amount.memory_bytes <= node.free.memory_bytes &&
         amount.gpus <= node.free.gpus &&
         std::all_of(amount.devices.begin(), amount.devices.end(), [&](const auto& device) {
           const auto free = node.free.devices.find(device.first);
           return free != node.free.devices.end() && device.second <= free->second;
         });
}

Result<Holding> Pool::hold(const RankKey& key, const NodeId& id, const Resources& amount) {
  const auto it = nodes_.find(id);
  if (it == nodes_.end()) {
    return error(ErrorCode::kNotFound, fmt::format("There is no node '{}'", id.value()));
  }
  if (holders_.contains(key)) {
    return error(ErrorCode::kExists, fmt::format("Rank {} holds a node already", to_string(key)));
  }
  Node& node = it->second;
  if (!fits(node, amount)) {
    return error(ErrorCode::kExhausted, fmt::format("Node '{}' has no room", id.value()));
  }
  Holding holding{id, amount, {}};
  for (std::size_t i = 0; i < node.gpu_used.size() &&
                          holding.gpu_indices.size() < static_cast<std::size_t>(amount.gpus);
       ++i) {
    if (!node.gpu_used[i]) {
      holding.gpu_indices.push_back(static_cast<std::int32_t>(i));
    }
  }
  take(node, amount);
  mark_gpus(node, holding, true);
  node.holdings.emplace(key, holding);
  holders_.emplace(key, id);
  return holding;
}

void Pool::restore(const RankKey& key, const Holding& holding) {
  holders_[key] = holding.node;
  const auto it = nodes_.find(holding.node);
  if (it == nodes_.end()) {
    homeless_[key] = holding;
    return;
  }
  if (it->second.holdings.emplace(key, holding).second) {
    take(it->second, holding.amount);
    mark_gpus(it->second, holding, true);
  }
}

void Pool::release(const RankKey& key) {
  const auto holder = holders_.find(key);
  if (holder == holders_.end()) {
    return;
  }
  homeless_.erase(key);
  if (const auto it = nodes_.find(holder->second); it != nodes_.end()) {
    Node& node = it->second;
    if (const auto held = node.holdings.find(key); held != node.holdings.end()) {
      node.free.add(held->second.amount);
      mark_gpus(node, held->second, false);
      node.holdings.erase(held);
    }
  }
  holders_.erase(holder);
}

std::string Pool::check() const {
  for (const auto& [id, node] : nodes_) {
    Resources sum = node.free;
    sum.add(node.spec.reserved);
    std::vector<std::int32_t> holders(node.gpu_used.size(), 0);
    for (const auto& [key, holding] : node.holdings) {
      sum.add(holding.amount);
      for (const std::int32_t index : holding.gpu_indices) {
        if (++holders[static_cast<std::size_t>(index)] > 1) {
          return fmt::format("GPU {} of node '{}' is held twice", index, id.value());
        }
      }
    }
    if (sum != node.spec.capacity) {
      return fmt::format("What is held, reserved and free on node '{}' is not its capacity",
                         id.value());
    }
  }
  return {};
}

}  // namespace quad::pool
