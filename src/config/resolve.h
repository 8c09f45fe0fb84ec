// config/resolve.h
//
// The layers, laid over each other: flags, the file, defaults → one setting for each key. An engine
// gets what it does not say itself from `kubernetes.context_configs` of its context, then from
// `kubernetes`. Internal to config; pure.

#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"
#include "spec/grammar.h"

namespace quad::config {

class Settings {
 public:
  /// `root` is a mapping without nulls, and must outlive this.
  Settings(const spec::Node& root, const std::vector<Override>& overrides);

  [[nodiscard]] const Setting* find(std::string_view key) const;
  /// The value, if it is set.
  [[nodiscard]] const spec::Node* value(std::string_view key) const;
  [[nodiscard]] bool has_local() const { return has_local_; }
  /// The Kubernetes engines by name, in the file's order; then those of `allowed_contexts`.
  [[nodiscard]] const std::vector<std::string>& kubernetes() const { return kubernetes_; }
  /// Where each of `kubernetes()` says what it does not say itself: nearest first, itself included.
  [[nodiscard]] std::vector<const spec::Node*> layers(const std::string& engine) const;
  /// The context of the kubeconfig; empty: its current one.
  [[nodiscard]] std::string context_of(const std::string& engine) const;
  /// Where the file names the engine.
  [[nodiscard]] spec::Mark mark_of(const std::string& engine) const;
  [[nodiscard]] const std::vector<Setting>& all() const { return all_; }

 private:
  void walk(const spec::Rule& rule, const std::string& key, const std::string& pattern,
            const std::vector<const spec::Node*>& layers, bool only_written);
  void add_engines(const spec::Rule& rule);
  void add(const std::string& key, const std::string& pattern, std::string_view name,
           const std::vector<const spec::Node*>& layers, bool only_written);

  const spec::Node& root_;
  const std::vector<Override>& overrides_;
  bool has_local_ = false;
  std::vector<std::string> kubernetes_;
  std::vector<Setting> all_;
  std::map<std::string, std::size_t, std::less<>> by_key_;
};

/// Takes out what was left empty ("tls:" with nothing below it), as if the key were not there. An
/// engine that says nothing is there all the same.
void drop_empty(spec::Node& node, const spec::Rule& rule);

}  // namespace quad::config
