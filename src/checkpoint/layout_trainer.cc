// The rule for the folders of the Hugging Face Trainer.

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <set>

#include "base/json.h"
#include "checkpoint/layout_rules.h"

namespace quad::checkpoint {

namespace fs = std::filesystem;

namespace {

bool has_any(const Tree& tree, std::initializer_list<std::string_view> names) {
  return std::any_of(names.begin(), names.end(),
                     [&](std::string_view name) { return find_file(tree, name) != nullptr; });
}

bool has_rng(const Tree& tree) {
  return std::any_of(tree.files.begin(), tree.files.end(),
                     [](const TreeFile& file) { return file.relative.starts_with("rng_state"); });
}

std::optional<Judgement> check_rng_ranks(const Subject& subject) {
  std::set<int> ranks;
  for (const TreeFile& file : subject.tree.files) {
    if (const int rank = number_after(file.relative, "rng_state_"); rank >= 0) {
      ranks.insert(rank);
    }
  }
  if (!ranks.empty() && static_cast<std::size_t>(*ranks.rbegin()) + 1 != ranks.size()) {
    return incomplete(fmt::format("It has the random state of {} of {} ranks.", ranks.size(),
                                  *ranks.rbegin() + 1));
  }
  return std::nullopt;
}

std::optional<Judgement> check_trainer_state(const Subject& subject,
                                             std::optional<std::int64_t>& step) {
  const TreeFile* state = find_file(subject.tree, "trainer_state.json");
  if (state == nullptr) {
    return incomplete("It has no trainer_state.json, which the Trainer writes near the end.");
  }
  if (state->info.size > subject.options.limits.max_json) {
    return unknown("Its trainer_state.json is too long to check.");
  }
  const auto text = subject.view.read(subject.path / "trainer_state.json", 0,
                                      static_cast<std::size_t>(state->info.size));
  if (!text.ok()) {
    return unknown(fmt::format("Its trainer_state.json cannot be read: {}.", text.error().message));
  }
  const auto object = parse_json_object(*text);
  if (!object.ok()) {
    return incomplete("Its trainer_state.json is cut off or damaged.");
  }
  const std::int64_t global_step = get_int(*object, "global_step", -1);
  if (subject.facts.step && global_step != *subject.facts.step) {
    return incomplete(fmt::format("Its name says step {} and its trainer_state.json {}.",
                                  *subject.facts.step, global_step));
  }
  step = global_step >= 0 ? std::optional(global_step) : std::nullopt;
  return std::nullopt;
}

}  // namespace

Judgement judge_huggingface(const Subject& subject) {
  const Tree& tree = subject.tree;
  std::optional<std::int64_t> step;
  if (auto fault = check_trainer_state(subject, step)) {
    return *fault;
  }
  std::size_t models = 0;
  if (auto fault = check_indexes(subject, models)) {
    return *fault;
  }
  if (const Contents contents = check_contents(subject); contents.fault) {
    return *contents.fault;
  }
  bool optimizer = has_any(tree, {"optimizer.pt", "optimizer.bin", "optimizer.safetensors"});
  bool sharded = false;
  for (const std::string& folder : tree.folders) {
    const bool model = folder.starts_with("pytorch_model_fsdp_");
    const bool optim = folder.starts_with("optimizer_");
    const bool deepspeed = folder.starts_with("global_step");
    if (folder.find('/') != std::string::npos || (!model && !optim && !deepspeed)) {
      continue;
    }
    const Tree part = subtree(tree, folder);
    const fs::path inner = subject.path / folder;
    ValidateOptions plain = subject.options;
    plain.previous.reset();  // the pattern is that of the whole folder
    const Subject judged{subject.view, inner, folder, facts_of_name(folder), part, plain};
    const Judgement found = deepspeed ? judge_deepspeed(judged) : judge_dcp(judged);
    if (found.state != State::kComplete) {
      return {found.state,
              fmt::format("{}: {}", shown(folder), found.reason),
              found.settles_at,
              {},
              {}};
    }
    models += model || deepspeed ? 1 : 0;
    optimizer = optimizer || optim || deepspeed;
    sharded = true;
  }
  if (models == 0 &&
      !has_any(tree, {"model.safetensors", "pytorch_model.bin", "adapter_model.safetensors",
                      "adapter_model.bin", "pytorch_model_fsdp.bin", "tf_model.h5",
                      "diffusion_pytorch_model.safetensors"})) {
    return incomplete("It has no model file.");
  }
  if (!optimizer && has_rng(tree)) {
    return incomplete("It has no optimizer.pt although it is no save of the model alone.");
  }
  if (optimizer && !sharded && find_file(tree, "scheduler.pt") == nullptr) {
    return incomplete("It has no scheduler.pt, which is written after optimizer.pt.");
  }
  if (auto fault = check_rng_ranks(subject)) {
    return *fault;
  }
  if (const auto& previous = subject.options.previous;
      previous && tree.files.size() < previous->files) {
    // A later rank's random state may come after trainer_state.json; a changed setting settles.
    Judgement settled = judge_settled(subject.options, tree.newest_nanos, "It");
    if (settled.state != State::kComplete) {
      settled.reason = fmt::format("It has {} files where the one before it has {}.",
                                   tree.files.size(), previous->files);
      settled.step = step;
      return settled;
    }
  }
  Judgement good = complete("Its trainer_state.json, model and optimizer are there in full.");
  if (!optimizer) {
    good.reason = "Its trainer_state.json and model are there in full (a save of the model alone).";
  }
  good.step = step;
  return good;
}

}  // namespace quad::checkpoint
