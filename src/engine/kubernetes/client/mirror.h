// engine/kubernetes/client/mirror.h
//
// What is known of the objects of a list: from lists and single events, in whatever order troubles
// bring them, to changes that each happen once. An object is told apart by its uid, so one that was
// deleted and made again under the same name is removed and added; an event that was seen is known
// by its resourceVersion; what is missing from a later list is removed. Of each object only what
// the projection makes of it is kept (and told: nothing is, when that stays the same).
//
// Pure; one thread (the watcher's). A step costs a hash look-up, the end of a list a walk over all.

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "base/json.h"

namespace quad::kubernetes {

enum class ChangeKind { kAdded, kChanged, kRemoved };

template <typename T>
struct Change {
  ChangeKind kind = ChangeKind::kAdded;
  std::string name_space;
  std::string name;
  std::string uid;
  T value;  ///< of a removed object: the last that was known
};

/// What a watch feeds.
class ObjectSink {
 public:
  virtual ~ObjectSink() = default;
  /// A list begins; also in the place of one that did not come to its end.
  virtual void list_begins() = 0;
  /// The list is whole: what it did not have is not there.
  virtual void list_ends() = 0;
  /// An object as it is, from a list or an event.
  virtual void present(const json::object& object) = 0;
  /// An object as it was last.
  virtual void removed(const json::object& object) = 0;
};

template <typename T>
class Mirror final : public ObjectSink {
 public:
  /// Nothing for an object that does not matter, which then counts as not there.
  using Projection = std::function<std::optional<T>(const json::object& object)>;
  using Listener = std::function<void(Change<T> change)>;

  Mirror(Projection project, Listener tell)
      : project_(std::move(project)), tell_(std::move(tell)) {}

  void list_begins() override { ++round_; }

  void list_ends() override {
    for (auto entry = known_.begin(); entry != known_.end();) {
      if (entry->second.round == round_) {
        ++entry;
        continue;
      }
      auto node = known_.extract(entry++);
      tell(ChangeKind::kRemoved, node.key(), std::move(node.mapped()));
    }
  }

  void present(const json::object& object) override {
    const Identity identity(object);
    const auto found = known_.find(identity.key);
    const bool same = found != known_.end() && found->second.uid == identity.uid;
    if (same) {
      found->second.round = round_;
      if (found->second.version == identity.version) {
        return;
      }
    } else if (found != known_.end()) {
      forget(found);
    }
    auto value = project_(object);
    if (!value.has_value()) {
      if (same) {
        forget(found);
      }
      return;
    }
    if (!same) {
      Entry entry{std::string(identity.uid), std::string(identity.version), round_, *value};
      known_.insert_or_assign(identity.key, entry);
      tell(ChangeKind::kAdded, identity.key, std::move(entry));
      return;
    }
    found->second.version = identity.version;
    if (!(found->second.value == *value)) {
      found->second.value = std::move(*value);
      tell(ChangeKind::kChanged, identity.key, Entry(found->second));
    }
  }

  void removed(const json::object& object) override {
    const Identity identity(object);
    const auto found = known_.find(identity.key);
    if (found == known_.end() || found->second.uid != identity.uid) {
      return;
    }
    if (auto last = project_(object); last.has_value()) {
      found->second.value = std::move(*last);
    }
    forget(found);
  }

  [[nodiscard]] std::size_t size() const { return known_.size(); }

 private:
  struct Entry {
    std::string uid;
    std::string version;
    std::uint64_t round = 0;
    T value;
  };
  using Known = std::unordered_map<std::string, Entry>;

  struct Identity {
    explicit Identity(const json::object& object) {
      const json::object nothing;
      const auto* found = get_object(object, "metadata");
      const auto& metadata = found == nullptr ? nothing : *found;
      key = get_string(metadata, "namespace");
      key += '/';
      key += get_string(metadata, "name");
      uid = get_string(metadata, "uid");
      version = get_string(metadata, "resourceVersion");
    }
    std::string key;
    std::string_view uid;
    std::string_view version;
  };

  void forget(typename Known::iterator entry) {
    auto node = known_.extract(entry);
    tell(ChangeKind::kRemoved, node.key(), std::move(node.mapped()));
  }

  void tell(ChangeKind kind, const std::string& key, Entry entry) {
    const auto slash = key.find('/');
    tell_({kind, key.substr(0, slash), key.substr(slash + 1), std::move(entry.uid),
           std::move(entry.value)});
  }

  Projection project_;
  Listener tell_;
  Known known_;
  std::uint64_t round_ = 0;
};

}  // namespace quad::kubernetes
