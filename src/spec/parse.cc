// The documents of a file: one task, a pipeline, or a job group with its header.

#include "spec/parse.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "base/text.h"
#include "spec/grammar.h"
#include "spec/letters.h"
#include "spec/number.h"
#include "spec/readers.h"
#include "spec/yaml.h"

namespace quad::spec {

namespace {

bool is_empty_value(const Node& node) {
  switch (node.kind) {
    case Node::Kind::kNull:
      return true;
    case Node::Kind::kBool:
      return !node.boolean;
    case Node::Kind::kInt:
    case Node::Kind::kFloat:
      return node.number == 0;
    case Node::Kind::kString:
      return node.text.empty();
    case Node::Kind::kSequence:
      return node.items.empty();
    case Node::Kind::kMapping:
      return node.entries.empty();
    case Node::Kind::kForeign:
      return false;
  }
  return false;
}

/// A name that is safe in a file name, a host name and a shell.
bool is_group_name(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return is_alphanumeric(c) || c == '-' || c == '_';
  });
}

class FileReader {
 public:
  FileReader(std::vector<Node> documents, const Overrides& overrides)
      : documents_(std::move(documents)), overrides_(overrides) {}

  TaskSet read() {
    if (std::all_of(documents_.begin(), documents_.end(), is_empty_value)) {
      issues_.fail("", {1, 1}, "the file has no task in it; write at least run: with a command");
    } else if (is_job_group()) {
      read_job_group();
    } else {
      read_chain();
    }
    set_.errors = issues_.errors();
    set_.warnings = issues_.warnings();
    if (!set_.ok()) {
      set_.tasks.clear();
    }
    return std::move(set_);
  }

 private:
  bool is_job_group() const {
    const Node* execution = documents_.size() > 1 ? documents_[0].find("execution") : nullptr;
    return execution != nullptr && execution->is_string() && execution->text == "parallel";
  }

  static bool is_header(const Node& node) {
    const bool named = node.find("name") != nullptr;
    return (named && node.entries.size() == 1) ||
           (named && node.entries.size() == 2 && node.find("execution") != nullptr);
  }

  bool is_task(const Node& node) {
    if (node.is_mapping()) {
      return true;
    }
    issues_.fail("", node.mark,
                 fmt::format("a task is a mapping of keys such as name, resources and run, not {}",
                             shown(node)));
    return false;
  }

  void read_chain() {
    const Node first = documents_[0];
    if (!first.is_null() && !is_task(first)) {
      return;
    }
    const bool header = is_header(first);
    const Node* name = first.find_value("name");
    if (name != nullptr && (header || documents_.size() == 1)) {
      set_.dag_name = python_str(*name);
    }
    if (header) {
      const Node* execution = first.find_value("execution");
      if (execution != nullptr && (!execution->is_string() || execution->text != "serial")) {
        issues_.fail(
            "execution", execution->mark,
            fmt::format("execution of a pipeline must be serial, not {}; parallel is for a "
                        "job group, whose tasks follow in their own documents",
                        shown(*execution)),
            "serial");
        return;
      }
      documents_.erase(documents_.begin());
      if (documents_.empty()) {
        Node task = Node::make_mapping(first.mark);
        task.set("name", *first.find("name"));
        documents_.push_back(std::move(task));
      }
    }
    std::erase_if(documents_, [](const Node& node) { return node.is_null(); });
    if (documents_.empty()) {
      issues_.fail("", first.mark, "the file has a header but no task after it");
      return;
    }
    read_tasks(documents_, header);
  }

  void read_tasks(std::vector<Node>& configs, bool header) {
    if (overrides_.name && (configs.size() == 1 || header)) {
      set_.dag_name = overrides_.name;
    }
    if (configs.size() > 1 && has_task_overrides()) {
      issues_.warn("", {},
                   "the file has several tasks, so options for one task (such as --cpus or "
                   "--num-nodes) are not applied; write them into the file");
    }
    if (!may_add_to_each(configs.size())) {
      return;
    }
    for (Node& config : configs) {
      if (!is_task(config)) {
        continue;
      }
      if (configs.size() == 1) {
        apply_overrides(config, overrides_, issues_);
      }
      if (auto task = read_task(std::move(config), overrides_, issues_)) {
        set_.tasks.push_back(std::move(*task));
      }
    }
  }

  /// Variables and secrets of the command line go into every task of the file.
  bool may_add_to_each(std::size_t tasks) {
    constexpr std::size_t kMostAdded = 100'000;
    const std::size_t added = overrides_.envs.size() + overrides_.secrets.size();
    if (tasks > 1 && added * tasks > kMostAdded) {
      issues_.fail("envs", {},
                   fmt::format("{} variables and secrets for each of {} tasks are more than the "
                               "{} that are allowed; write them into the file",
                               added, tasks, kMostAdded));
      return false;
    }
    return true;
  }

  bool has_task_overrides() const {
    const Overrides& o = overrides_;
    return o.workdir || o.cpus || o.memory || o.gpus || o.infra || o.image_id || o.disk_size ||
           o.num_nodes || o.priority || o.use_spot || !o.config.empty();
  }

  void read_job_group() {
    set_.execution = TaskSet::Execution::kParallel;
    const Node header = documents_[0];
    set_.header.add(header, "", 1);
    documents_.erase(documents_.begin());
    const Node* name = header.find("name");
    if (name == nullptr || !name->is_string() || !is_group_name(name->text)) {
      issues_.fail("name", name != nullptr ? name->mark : header.mark,
                   fmt::format("a job group needs a name of letters, digits, - and _{}",
                               name != nullptr ? ", not " + shown(*name) : ""));
      return;
    }
    set_.dag_name = overrides_.name ? overrides_.name : name->text;
    warn_of_unknown(header);
    std::set<std::string, std::less<>> names;
    std::erase_if(documents_, [](const Node& node) { return node.is_null(); });
    if (documents_.empty()) {
      issues_.fail("", header.mark, "the file has the header of a job group but no task after it");
    }
    for (const Node& document : documents_) {
      if (is_task(document)) {
        check_task_name(document, names);
      }
    }
    if (issues_.failures() > 0 || !may_add_to_each(documents_.size())) {
      return;
    }
    for (Node& document : documents_) {
      if (document.find_value("pool") != nullptr) {
        issues_.warn("pool", document.mark,
                     "a task of a job group cannot be a pool when it is launched");
      }
      if (auto task = read_task(std::move(document), overrides_, issues_)) {
        set_.tasks.push_back(std::move(*task));
      }
    }
    read_primary_tasks(header, names);
    read_termination_delay(header, names);
    if (const Node* connection = header.find_value("inter_connection")) {
      if (!connection->is_bool()) {
        issues_.fail(
            "inter_connection", connection->mark,
            fmt::format("inter_connection must be true or false, not {}", shown(*connection)));
      }
      set_.inter_connection = connection->boolean;
    }
  }

  void warn_of_unknown(const Node& header) {
    const std::vector<std::string_view> known = {"name", "execution", "primary_tasks",
                                                 "termination_delay", "inter_connection"};
    for (const Entry& entry : header.entries) {
      const std::string key = json_key(entry.key);
      if (std::find(known.begin(), known.end(), key) == known.end()) {
        const std::string hint(nearest(key, known).value_or(""));
        issues_.warn(
            key.substr(0, 200), entry.key.mark,
            fmt::format("the header of a job group has no key {}; it is passed over", shown(key)),
            hint);
      }
    }
  }

  void check_task_name(const Node& document, std::set<std::string, std::less<>>& names) {
    const Node* name = document.find("name");
    if (name == nullptr || !name->is_string() || !is_group_name(name->text)) {
      issues_.fail(
          "name", name != nullptr ? name->mark : document.mark,
          fmt::format("every task of a job group needs a name of letters, digits, - and _{}",
                      name != nullptr ? ", not " + shown(*name) : ""));
    } else if (!names.insert(name->text).second) {
      issues_.fail("name", name->mark,
                   fmt::format("two tasks of the job group are called {}", shown(*name)));
    }
  }

  void fail_unknown_task(std::string_view key, const Node& at, const std::string& word,
                         const std::set<std::string, std::less<>>& names) {
    const std::vector<std::string_view> known(names.begin(), names.end());
    const std::string hint(nearest(word, known).value_or(""));
    issues_.fail(key, at.mark,
                 fmt::format("{} names the task {}, which is not in the group; it has {}", key,
                             shown(word), join_words(known)),
                 hint);
  }

  void read_primary_tasks(const Node& header, const std::set<std::string, std::less<>>& names) {
    const Node* list = header.find_value("primary_tasks");
    if (list == nullptr) {
      return;
    }
    if (!list->is_sequence()) {
      issues_.fail("primary_tasks", list->mark,
                   fmt::format("primary_tasks must be a list of task names, not {}", shown(*list)));
      return;
    }
    for (const Node& item : list->items) {
      if (!item.is_string() || !names.contains(item.text)) {
        fail_unknown_task("primary_tasks", item, python_str(item), names);
      } else {
        set_.primary_tasks.push_back(item.text);
      }
    }
  }

  void add_delay(const std::string& task, const Node& value) {
    const std::string text = python_str(value);
    if ((!value.is_string() && !value.is_int()) || !is_seconds_text(text)) {
      issues_.fail("termination_delay", value.mark,
                   fmt::format("termination_delay must be a time such as 30s, 5m or 1h, not {}",
                               shown(value)));
      return;
    }
    set_.termination_delays.emplace_back(task, text);
  }

  void read_termination_delay(const Node& header, const std::set<std::string, std::less<>>& names) {
    const Node* delay = header.find_value("termination_delay");
    if (delay == nullptr) {
      return;
    }
    if (!delay->is_mapping()) {
      add_delay("default", *delay);
      return;
    }
    for (const Entry& entry : delay->entries) {
      if (!entry.key.is_string() ||
          (entry.key.text != "default" && !names.contains(entry.key.text))) {
        fail_unknown_task("termination_delay", entry.key, json_key(entry.key), names);
      } else {
        add_delay(entry.key.text, entry.value);
      }
    }
  }

  std::vector<Node> documents_;
  const Overrides& overrides_;
  Issues issues_;
  TaskSet set_;
};

}  // namespace

TaskSet parse(std::string_view yaml, const Overrides& overrides) {
  YamlStream stream = read_yaml(yaml);
  if (stream.error) {
    TaskSet set;
    set.errors.push_back(std::move(*stream.error));
    return set;
  }
  return FileReader(std::move(stream.documents), overrides).read();
}

TaskSet from_command(std::string_view command, const Overrides& overrides) {
  Node task = Node::make_mapping();
  task.set("run", Node::make_string(std::string(command)));
  return FileReader({std::move(task)}, overrides).read();
}

}  // namespace quad::spec
