// The rules for what many ranks write together: PyTorch distributed, indexed shards, DeepSpeed.

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "checkpoint/layout_rules.h"

namespace quad::checkpoint {

Judgement judge_dcp(const Subject& subject) {
  const Tree& tree = subject.tree;
  const TreeFile* metadata = find_file(tree, ".metadata");
  if (find_file(tree, ".metadata.tmp") != nullptr) {
    return incomplete("Its .metadata.tmp is still there: the save had not been finished.");
  }
  if (metadata == nullptr) {
    return incomplete("It has no .metadata, which is written last.");
  }
  if (metadata->info.size == 0) {
    return incomplete("Its .metadata is empty.");
  }
  std::size_t shards = 0;
  for (const TreeFile& file : tree.files) {
    if (!file.relative.ends_with(".distcp")) {
      continue;
    }
    ++shards;
    if (file.info.size == 0) {
      return incomplete(fmt::format("{} is empty.", shown(file.relative)));
    }
    if (file.info.mtime_nanos > metadata->info.mtime_nanos) {
      return incomplete(fmt::format(
          "{} is newer than .metadata, so that belongs to an earlier save into the same folder.",
          shown(file.relative)));
    }
  }
  const auto bytes =
      subject.view.read(subject.path / ".metadata", 0, subject.options.limits.max_pickle);
  if (!bytes.ok()) {
    return unknown(fmt::format("Its .metadata cannot be read: {}.", bytes.error().message));
  }
  const bool whole = bytes->size() == metadata->info.size;
  if (bytes->empty() || bytes->front() != '\x80' || (whole && bytes->back() != '.')) {
    return incomplete("Its .metadata is cut off or damaged.");
  }
  std::size_t named = 0;
  const auto facts =
      whole ? read_pickle(*bytes) : Result<PickleFacts>(error(ErrorCode::kExhausted, "too long"));
  if (!facts.ok() && facts.error().code == ErrorCode::kInvalid) {
    return incomplete("Its .metadata is cut off.");
  }
  if (facts.ok()) {
    for (const auto& [name, least] : facts->extents) {
      const TreeFile* file = find_file(tree, name);
      if (file == nullptr) {
        return incomplete(fmt::format("{} is missing, which .metadata names.", shown(name)));
      }
      if (file->info.size < least) {
        return incomplete(fmt::format("{} is cut off: it has {} bytes and .metadata needs {}.",
                                      shown(name), file->info.size, least));
      }
      ++named;
    }
  }
  if (shards == 0 && named == 0) {
    return incomplete("It has .metadata and not one .distcp file.");
  }
  if (const Contents contents = check_contents(subject); contents.fault) {
    return *contents.fault;
  }
  return complete(
      named > 0 ? fmt::format("All {} files that .metadata names are there in full.", named)
                : fmt::format("Its .metadata was written after all {} .distcp files.", shards));
}

Judgement judge_sharded(const Subject& subject) {
  std::size_t indexes = 0;
  if (auto fault = check_indexes(subject, indexes)) {
    return *fault;
  }
  if (const Contents contents = check_contents(subject); contents.fault) {
    return *contents.fault;
  }
  return complete("Every file that its index names is there in full.");
}

namespace {

struct Grid {
  std::set<std::pair<int, int>> optim;  // (dp, mp)
  std::set<int> model;                  // mp
  int dp = 0;
  int mp = 0;
};

Grid read_grid(const Tree& tree) {
  Grid grid;
  for (const TreeFile& file : tree.files) {
    const std::string_view name = last_part(file.relative);
    const int mp = number_after(name, "mp_rank_");
    if (mp < 0) {
      continue;
    }
    grid.mp = std::max(grid.mp, mp + 1);
    if (name.ends_with("_optim_states.pt")) {
      const int dp = std::max(0, number_after(name, "zero_pp_rank_"));
      grid.optim.emplace(dp, mp);
      grid.dp = std::max(grid.dp, dp + 1);
    } else if (name.ends_with("_model_states.pt")) {
      grid.model.insert(mp);
    }
  }
  return grid;
}

}  // namespace

Judgement judge_deepspeed(const Subject& subject) {
  if (subject.tree.files.empty()) {
    return incomplete("It is empty.");
  }
  if (const Contents contents = check_contents(subject); contents.fault) {
    return *contents.fault;
  }
  const Grid grid = read_grid(subject.tree);
  if (grid.model.empty()) {
    return incomplete("It has no mp_rank_*_model_states.pt.");
  }
  const auto cells = static_cast<std::size_t>(grid.dp) * static_cast<std::size_t>(grid.mp);
  if (grid.optim.size() != cells || grid.model.size() != static_cast<std::size_t>(grid.mp)) {
    return incomplete(fmt::format("It has {} of {} optimizer files and {} of {} model files.",
                                  grid.optim.size(), cells, grid.model.size(), grid.mp));
  }
  // Each model file says how many ranks wrote: the surest count there is.
  for (const TreeFile& file : subject.tree.files) {
    if (!last_part(file.relative).ends_with("_model_states.pt")) {
      continue;
    }
    const FileCheck check = check_file(subject.view, subject.path / file.relative, file.info,
                                       subject.options.limits, true);
    if (!check.inside || !check.inside->dp_world_size || grid.dp == 0) {
      break;
    }
    const std::int64_t mp = check.inside->mp_world_size.value_or(grid.mp);
    const std::int64_t dp = *check.inside->dp_world_size;
    // Pipeline stages count as model ranks in the names and not in the number inside.
    if (dp != grid.dp || mp > grid.mp) {
      return incomplete(
          fmt::format("It has the optimizer files of {} x {} ranks, and {} x {} wrote it.", grid.dp,
                      grid.mp, dp, std::max<std::int64_t>(mp, grid.mp)));
    }
    return complete(fmt::format("The files of all {} x {} ranks are there in full.", dp, grid.mp));
  }
  if (const auto& previous = subject.options.previous) {
    if (previous->files == subject.tree.files.size()) {
      return complete("It has as many files as the complete one before it, each in full.");
    }
    if (previous->files > subject.tree.files.size()) {
      return incomplete(fmt::format("It has {} files where the one before it has {}.",
                                    subject.tree.files.size(), previous->files));
    }
  }
  const auto latest = small_text(subject.view, subject.path.parent_path() / "latest");
  if (latest && *latest == subject.name) {
    return complete("Its files are there in full, and `latest` names it.");
  }
  return judge_settled(subject.options, subject.tree.newest_nanos, "It");
}

}  // namespace quad::checkpoint
