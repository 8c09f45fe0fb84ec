// The `quad:` block.

#include <algorithm>

#include <fmt/format.h>

#include "base/text.h"
#include "spec/grammar.h"
#include "spec/number.h"
#include "spec/readers.h"

namespace quad::spec {

namespace {

std::optional<Millis> duration(const Node& block, std::string_view key) {
  const Node* found = block.find_value(key);
  return found != nullptr ? parse_duration(found->text) : std::nullopt;
}

std::optional<std::string> word(const Node& block, std::string_view key) {
  const Node* found = block.find_value(key);
  return found != nullptr ? std::optional(found->text) : std::nullopt;
}

std::vector<std::string> words(const Node& block, std::string_view key) {
  std::vector<std::string> out;
  if (const Node* found = block.find_value(key)) {
    for (const Node& item : found->items) {
      out.push_back(python_str(item));
    }
  }
  return out;
}

/// 10 → 0-9; "5", "0-9" → that.
std::optional<ArrayRange> read_array(const Node& node, Issues& issues) {
  constexpr std::int64_t kMost = 1'000'000;
  if (!node.is_string()) {
    return ArrayRange{0, static_cast<std::int64_t>(node.number) - 1};
  }
  const auto parts = split(node.text, '-');
  const auto number = [](std::string_view text) {
    const bool plain = !text.empty() && text.size() < 10 &&
                       text.find_first_not_of("0123456789") == std::string_view::npos;
    return plain ? python_int(text) : std::nullopt;
  };
  const auto first = number(parts[0]);
  const auto last = parts.size() > 1 ? number(parts[1]) : first;
  if (!first || !last || parts.size() > 2 || *first > *last || *last - *first >= kMost) {
    issues.fail(
        "quad.array", node.mark,
        fmt::format("quad.array must be a count such as 10 or a range such as \"0-9\", of at "
                    "most {} jobs, not {}",
                    kMost, shown(node)));
    return std::nullopt;
  }
  return ArrayRange{*first, *last};
}

CheckpointOptions read_checkpoint(const Node& node, Issues& issues) {
  CheckpointOptions options;
  options.path = word(node, "path");
  options.interval = duration(node, "interval");
  options.framework = word(node, "framework").value_or("auto");
  options.marker = word(node, "marker");
  if (const Node* keep = node.find_value("keep")) {
    options.keep = static_cast<int>(keep->number);
  }
  if (options.framework == "marker" && !options.marker) {
    issues.fail("quad.checkpoint.marker", node.mark,
                "quad.checkpoint.framework is marker, so quad.checkpoint.marker must name the file "
                "that a complete checkpoint has");
  }
  if (options.interval && *options.interval <= Millis(0)) {
    issues.fail("quad.checkpoint.interval", node.find("interval")->mark,
                "quad.checkpoint.interval must be longer than nothing");
  }
  return options;
}

}  // namespace

void read_quad(const Node& node, Task& task, Issues& issues) {
  QuadBlock block;
  block.written = to_json(node).as_object();
  const std::string kind = word(node, "kind").value_or("batch");
  block.kind = kind == "session"   ? JobKind::kSession
               : kind == "service" ? JobKind::kService
                                   : JobKind::kBatch;
  block.fence = word(node, "fence") == "strict" ? Fence::kStrict : Fence::kNormal;
  block.max_duration = duration(node, "max_duration");
  block.stop_grace = duration(node, "stop_grace").value_or(block.stop_grace);
  block.stop_signal_to_all = word(node, "stop_signal_to") == "all";
  block.queue = word(node, "queue");
  block.exclude_nodes = words(node, "exclude_nodes");
  block.depends_on = words(node, "depends_on");
  block.notify = words(node, "notify");
  if (const Node* preemptible = node.find_value("preemptible")) {
    block.preemptible = preemptible->boolean;
  }
  if (const Node* checkpoint = node.find_value("checkpoint")) {
    block.checkpoint = read_checkpoint(*checkpoint, issues);
  }
  if (const Node* array = node.find_value("array")) {
    block.array = read_array(*array, issues);
  }
  if (block.max_duration && *block.max_duration <= Millis(0)) {
    issues.fail("quad.max_duration", node.find("max_duration")->mark,
                "quad.max_duration must be longer than nothing");
  }
  task.quad = std::move(block);
}

}  // namespace quad::spec
