// base/ids.h
//
// Strong identifiers: a JobId cannot be passed for an Epoch. Values, totally ordered, hashable. No
// cost over the integer or string inside.

#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

namespace quad {

template <typename Tag, typename Value>
class StrongId {
 public:
  using ValueType = Value;

  StrongId() = default;
  explicit constexpr StrongId(Value value) : value_(std::move(value)) {}

  [[nodiscard]] constexpr const Value& value() const { return value_; }
  auto operator<=>(const StrongId&) const = default;

 private:
  Value value_{};
};

/// A job, numbered from 1 in order of submission. 0 is no job.
using JobId = StrongId<struct JobIdTag, std::int64_t>;
/// An attempt of a job, numbered from 1. 0 is no attempt yet.
using Epoch = StrongId<struct EpochTag, std::int32_t>;
/// A rank of an attempt, numbered from 0, which is the head.
using Rank = StrongId<struct RankTag, std::int32_t>;
/// The cursor of the event stream: the number of an event, from 1, without gaps in commit order.
using Revision = StrongId<struct RevisionTag, std::int64_t>;
/// A node's name, unique in the pool.
using NodeId = StrongId<struct NodeIdTag, std::string>;

/// One rank of one attempt: what every order and report is addressed by.
struct RankKey {
  JobId job;
  Epoch epoch;
  Rank rank;
  auto operator<=>(const RankKey&) const = default;
};

/// "17-2-0": job 17, epoch 2, rank 0. Names of folders, pods and files are made from it.
std::string to_string(const RankKey& key);

}  // namespace quad

template <typename Tag, typename Value>
struct std::hash<quad::StrongId<Tag, Value>> {
  std::size_t operator()(const quad::StrongId<Tag, Value>& id) const noexcept {
    return std::hash<Value>{}(id.value());
  }
};

template <>
struct std::hash<quad::RankKey> {
  std::size_t operator()(const quad::RankKey& key) const noexcept {
    const auto mixed = static_cast<std::uint64_t>(key.job.value()) * 0x9E3779B97F4A7C15ULL +
                       (static_cast<std::uint64_t>(key.epoch.value()) << 20U) +
                       static_cast<std::uint64_t>(key.rank.value());
    return std::hash<std::uint64_t>{}(mixed);
  }
};
