// `resources`: the alternatives are written out (any_of, ordered, sets and lists of accelerators),
// each then read on its own.

#include <algorithm>

#include <fmt/format.h>

#include "spec/accelerators.h"
#include "spec/grammar.h"
#include "spec/readers.h"
#include "spec/task_grammar.h"

namespace quad::spec {

namespace {

constexpr std::size_t kMostAlternatives = 1'000;

/// `gpus` is another name of `accelerators`.
bool rename_gpus(Node& resources, const std::string& path, Issues& issues) {
  const Node* gpus = resources.find("gpus");
  if (gpus == nullptr) {
    return true;
  }
  if (resources.find("accelerators") != nullptr) {
    issues.fail(join_path(path, "gpus"), gpus->mark,
                fmt::format("{0} and {1} are the same; give one of them", join_path(path, "gpus"),
                            join_path(path, "accelerators")));
    return false;
  }
  for (Entry& entry : resources.entries) {
    if (entry.key.is_string() && entry.key.text == "gpus") {
      entry.key.text = "accelerators";
    }
  }
  return true;
}

class ResourcesReader {
 public:
  ResourcesReader(Task& task, Issues& issues) : task_(task), issues_(issues) {}

  /// Reads one mapping, with or without candidates, into the task's alternatives.
  void read(Node base, const std::string& path) {
    if (const Node* hooks = base.find("hooks")) {
      issues_.fail(path + ".hooks", hooks->mark,
                   "hooks belong under config.hooks at the top of the task, not under resources");
      return;
    }
    bool good = rename_gpus(base, path, issues_);
    for (const std::string_view key : {"any_of", "ordered"}) {
      if (Node* candidates = base.find(key); candidates != nullptr && candidates->is_sequence()) {
        for (std::size_t i = 0; i < candidates->items.size(); ++i) {
          good &=
              rename_gpus(candidates->items[i], fmt::format("{}.{}[{}]", path, key, i), issues_);
        }
      }
    }
    if (!good || !check(base, resources_rule(), path, issues_, Nulls::kAbsent)) {
      return;
    }
    read_checked(std::move(base), path);
    if (hook_) {
      task_.hooks.push_back(std::move(*hook_));
    }
  }

 private:
  void read_checked(Node base, const std::string& path) {
    const Node* any_of = base.find_value("any_of");
    const Node* ordered = base.find_value("ordered");
    if (any_of != nullptr && ordered != nullptr) {
      issues_.fail(path, ordered->mark,
                   fmt::format("{0}.any_of and {0}.ordered cannot both be given", path));
      return;
    }
    std::optional<AcceleratorChoices> accelerators;
    if (const Node* written = base.find_value("accelerators")) {
      accelerators = expand_accelerators(*written, join_path(path, "accelerators"), issues_);
      if (!accelerators) {
        return;
      }
    }
    const bool several = accelerators && accelerators->choices.size() > 1;
    const Node* candidates = any_of != nullptr ? any_of : ordered;
    if (candidates != nullptr && !candidates->items.empty()) {
      if (several && (candidates == ordered || accelerators->ordered)) {
        issues_.fail(
            join_path(path, "accelerators"), base.find("accelerators")->mark,
            fmt::format("{0}.accelerators cannot list several beside {0}.{1}; name them in "
                        "its candidates",
                        path, candidates == ordered ? "ordered" : "any_of"));
        return;
      }
      task_.choice = candidates == ordered ? Choice::kOrdered : Choice::kAnyOf;
      read_candidates(base, *candidates, path);
      return;
    }
    if (!accelerators) {
      add(base, path, nullptr);
      return;
    }
    // Each alternative has all else, but none has the whole set.
    Node rest = base;
    rest.erase("accelerators");
    if (!may_repeat(rest, std::min(accelerators->choices.size(), kMostAlternatives))) {
      issues_.fail(
          join_path(path, "accelerators"), base.find("accelerators")->mark,
          fmt::format("{0}.accelerators names {1}, and each would repeat all else of {0}; that is "
                      "more than any planner could weigh",
                      path, accelerators->choices.size()));
      return;
    }
    if (several && task_.choice == Choice::kOne) {
      task_.choice = accelerators->ordered ? Choice::kOrdered : Choice::kAnyOf;
    }
    for (const AcceleratorChoice& choice : accelerators->choices) {
      if (issues_.failures() < Issues::kMostKept) {
        add(rest, path, &choice);
      }
    }
  }

  void read_candidates(const Node& base, const Node& candidates, const std::string& path) {
    Node shared = base;
    shared.erase("any_of");
    shared.erase("ordered");
    if (candidates.items.size() > kMostAlternatives ||
        !may_repeat(shared, candidates.items.size())) {
      issues_.fail(path, candidates.mark,
                   fmt::format("{0} has {1} candidates, and each would repeat all else of {0}; "
                               "that is more than any planner could weigh",
                               path, candidates.items.size()));
      return;
    }
    const std::string_view key = task_.choice == Choice::kOrdered ? "ordered" : "any_of";
    for (std::size_t i = 0; i < candidates.items.size(); ++i) {
      Node merged = shared;
      merged.mark = candidates.items[i].mark;
      for (const Entry& entry : candidates.items[i].entries) {
        if (entry.key.text != "labels") {
          merged.set(entry.key.text, entry.value);
          continue;
        }
        Node labels = merged.find_value("labels") != nullptr ? *merged.find_value("labels")
                                                             : Node::make_mapping(entry.value.mark);
        labels.set_all(entry.value.entries);
        merged.set("labels", std::move(labels));
      }
      const std::string candidate_path = fmt::format("{}.{}[{}]", path, key, i);
      const Choice outer = task_.choice;
      read_checked(std::move(merged), candidate_path);
      task_.choice = outer;
    }
  }

  /// Whether `times` copies of `node` are still within the bound, which they then count against.
  bool may_repeat(const Node& node, std::size_t times) {
    repeated_ += weight_of(node) * times;
    return times <= 1 || repeated_ <= kMostRepeated;
  }

  void add(const Node& node, const std::string& path, const AcceleratorChoice* accelerator) {
    if (attempts_ >= kMostAlternatives) {
      if (attempts_++ == kMostAlternatives) {
        issues_.fail(path, node.mark,
                     fmt::format("resources has more than {} alternatives", kMostAlternatives));
      }
      return;
    }
    ++attempts_;
    if (auto resources = read_candidate(node, path, accelerator, hook_, issues_)) {
      task_.resources.push_back(std::move(*resources));
    }
  }

  Task& task_;
  Issues& issues_;
  std::optional<Hook> hook_;
  std::size_t attempts_ = 0;
  std::size_t repeated_ = 0;
};

}  // namespace

void read_resources(const Node& node, Task& task, Issues& issues) {
  const std::size_t before = issues.failures();
  ResourcesReader(task, issues).read(node, "resources");
  if (issues.failures() != before) {
    return;
  }
  if (task.resources.size() < 2) {
    task.choice = Choice::kOne;
  }
  std::optional<int> priority;
  for (const Resources& alternative : task.resources) {
    if (alternative.priority && priority && *priority != *alternative.priority) {
      issues.fail(
          "resources.priority", node.mark,
          fmt::format("the alternatives of resources have different priorities ({} and {}); "
                      "give one for all",
                      *priority, *alternative.priority));
      return;
    }
    priority = alternative.priority ? alternative.priority : priority;
  }
}

}  // namespace quad::spec
