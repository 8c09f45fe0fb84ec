// spec/readers.h
//
// The parts of the reader, one file each: a checked Node in, plain values out, faults to Issues.
// Internal to spec.

#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "spec/diagnostic.h"
#include "spec/node.h"
#include "spec/parse.h"
#include "spec/task.h"

namespace quad::spec {

/// What the alternatives of a task may repeat together of what is written once, by weight_of():
/// each has its own copy, and so has whatever is made of it.
inline constexpr std::size_t kMostRepeated = 8U << 20U;

/// Variables that $NAME and ${NAME} stand for.
using Variables = std::map<std::string, std::string, std::less<>>;

/// Fills variables into every string and key below `node`. Unknown names stay as they are. False if
/// the result would be longer than `budget` bytes, which goes down by what is used.
bool substitute(Node& node, const Variables& variables, std::size_t& budget);

/// A variable as a task's programs will get it.
struct TaskVariable {
  std::string_view name, value;
  Mark mark;  ///< none if the command line gave it
  bool secret = false;
};

/// Refuses variables with which Linux starts no program, and warns of values with a $NAME that is
/// meant for a shell. O(bytes).
void check_variables(const std::vector<TaskVariable>& all, Issues& issues);

/// Applies the command line to a task's mapping, before it is read.
void apply_overrides(Node& task, const Overrides& overrides, Issues& issues);

/// One task of a file. Empty if an error was reported.
std::optional<Task> read_task(Node config, const Overrides& overrides, Issues& issues);

/// `resources` (a mapping; null members allowed) into task.resources and task.choice; hooks of
/// autostop are added.
void read_resources(const Node& node, Task& task, Issues& issues);

/// `file_mounts` into task.file_mounts; returns the cloud disks it asks for, in the form of
/// resources.volumes.
std::vector<Node> read_file_mounts(const Node& node, Task& task, Issues& issues);
/// `volumes`: what cannot work at launch is a warning here.
void read_volumes(const Node& node, Task& task, Issues& issues);

/// `service`, already checked against its rule.
void read_service(const Node& node, Task& task, Issues& issues);
/// `pool`.
void read_pool(const Node& node, Task& task, Issues& issues);

/// `quad`, already checked against its rule.
void read_quad(const Node& node, Task& task, Issues& issues);

/// True if the text has a scheme and a host, as a bucket or web address does.
bool is_cloud_url(std::string_view text);

/// The models with that much memory, for `accelerators: 80GB+`.
std::vector<std::string_view> gpus_by_memory(double gigabytes, bool at_least,
                                             std::string_view manufacturer);

}  // namespace quad::spec
