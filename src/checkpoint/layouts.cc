#include "checkpoint/layouts.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/json.h"
#include "base/text.h"
#include "checkpoint/layout_rules.h"

namespace quad::checkpoint {
namespace {

namespace fs = std::filesystem;

/// The whole number that a small text file holds, if that is all it holds.
std::optional<std::int64_t> number_in(std::string_view text) {
  return parse_number(trim(text));
}

Judgement judge_lightning_folder(const Subject& subject) {
  if (find_file(subject.tree, ".metadata") != nullptr || !has_folder(subject.tree, "checkpoint")) {
    Judgement found = judge_dcp(subject);
    if (found.state == State::kComplete && find_file(subject.tree, "meta.pt") == nullptr) {
      return incomplete("It has no meta.pt, which Lightning writes last.");
    }
    return found;
  }
  const auto latest = small_text(subject.view, subject.path / "latest");
  const std::string tag = latest && has_folder(subject.tree, *latest) ? *latest : "checkpoint";
  const Tree part = subtree(subject.tree, tag);
  const fs::path inner = subject.path / tag;
  ValidateOptions plain = subject.options;
  plain.previous.reset();  // the pattern is that of the whole folder
  return judge_deepspeed(Subject{subject.view, inner, tag, facts_of_name(tag), part, plain});
}

Judgement judge_megatron(const Subject& subject) {
  const auto text =
      small_text(subject.view, subject.path.parent_path() / "latest_checkpointed_iteration.txt");
  const auto tracked = text ? number_in(*text) : std::nullopt;
  if (tracked && subject.facts.step && *tracked < *subject.facts.step) {
    return incomplete(fmt::format(
        "latest_checkpointed_iteration.txt is still at {}: the save had not been finished.",
        *tracked));
  }
  const bool distributed =
      std::any_of(subject.tree.files.begin(), subject.tree.files.end(), [](const TreeFile& file) {
        return file.relative.ends_with(".distcp") || file.relative == ".metadata" ||
               file.relative == "common.pt";
      });
  if (distributed) {
    if (find_file(subject.tree, "common.pt") == nullptr) {
      return incomplete("It has no common.pt.");
    }
    return judge_dcp(subject);
  }
  if (subject.tree.files.empty()) {
    return incomplete("It is empty.");
  }
  const Contents contents = check_contents(subject);
  if (contents.fault) {
    return *contents.fault;
  }
  if (tracked && contents.proven > 0) {
    return complete("Its files are there in full, and latest_checkpointed_iteration.txt names it.");
  }
  return judge_settled(subject.options, subject.tree.newest_nanos, "It");
}

Judgement judge_orbax(const Subject& subject) {
  if (subject.name.find(".orbax-checkpoint-tmp") != std::string::npos) {
    return incomplete("It still has its temporary name.");
  }
  for (const std::string& folder : subject.tree.folders) {
    if (folder.find(".orbax-checkpoint-tmp") != std::string::npos) {
      return incomplete(fmt::format("Its part {} still has its temporary name.", shown(folder)));
    }
  }
  const bool committed = find_file(subject.tree, "commit_success.txt") != nullptr;
  const TreeFile* metadata = find_file(subject.tree, "_CHECKPOINT_METADATA");
  if (!committed) {
    // On an object store there is no rename; a neighbour with the marker shows that this is one.
    const auto names = subject.view.list(subject.path.parent_path(), 64);
    for (const std::string& name : names.ok() ? names->names : std::vector<std::string>()) {
      if (subject.view.stat(subject.path.parent_path() / name / "commit_success.txt").ok()) {
        return incomplete("It has no commit_success.txt, which its neighbours have.");
      }
    }
  }
  if (!committed && metadata == nullptr) {
    return incomplete("It has neither _CHECKPOINT_METADATA nor commit_success.txt.");
  }
  if (metadata != nullptr) {
    const auto text = subject.view.read(subject.path / "_CHECKPOINT_METADATA", 0,
                                        subject.options.limits.max_json);
    if (!text.ok() || !parse_json_object(*text).ok()) {
      return incomplete("Its _CHECKPOINT_METADATA is empty or cut off.");
    }
  }
  if (subject.tree.files.size() < 2) {
    return incomplete("It has its metadata and nothing else.");
  }
  for (const TreeFile& file : subject.tree.files) {
    const std::string_view name = last_part(file.relative);
    if (file.info.size == 0 && (name == "manifest.ocdbt" || name == "_METADATA" ||
                                name == ".zarray" || name.ends_with(".msgpack"))) {
      return incomplete(fmt::format("{} is empty.", shown(file.relative)));
    }
  }
  return complete(committed ? "It has commit_success.txt."
                            : "It has its final name and its _CHECKPOINT_METADATA.");
}

const TreeFile* find_temporary(const Tree& tree) {
  for (const TreeFile& file : tree.files) {
    const std::string_view name = last_part(file.relative);
    if (!name.starts_with(".") && is_temporary_name(name) && !name.ends_with(".lock")) {
      return &file;
    }
  }
  return nullptr;
}

/// Whether the file count and the size (within a twentieth) are those of the checkpoint before it;
/// else a sentence.
std::optional<std::string> differs_from_previous(const Subject& subject) {
  const auto& previous = subject.options.previous;
  if (!previous) {
    return std::nullopt;
  }
  if (subject.tree.files.size() != previous->files) {
    return fmt::format("It has {} files where the one before it has {}.", subject.tree.files.size(),
                       previous->files);
  }
  const std::uint64_t slack = previous->size / 20;
  if (subject.tree.size + slack < previous->size || subject.tree.size > previous->size + slack) {
    return fmt::format("It has {} bytes where the one before it has {}.", subject.tree.size,
                       previous->size);
  }
  return std::nullopt;
}

Judgement judge_unknown(const Subject& subject) {
  if (subject.tree.files.empty()) {
    return incomplete("It is empty.");
  }
  if (const TreeFile* temporary = find_temporary(subject.tree)) {
    return incomplete(
        fmt::format("It still holds the temporary file {}.", shown(temporary->relative)));
  }
  if (subject.view.stat(subject.path.string() + "-unfinished").ok()) {
    return incomplete(fmt::format("{}-unfinished is still there.", shown(subject.name)));
  }
  std::size_t indexes = 0;
  if (auto fault = check_indexes(subject, indexes)) {
    return *fault;
  }
  // Distributed parts, as NeMo and Accelerate nest them.
  for (const std::string& folder : subject.tree.folders) {
    const Tree part = subtree(subject.tree, folder);
    const bool distributed =
        std::any_of(part.files.begin(), part.files.end(), [](const TreeFile& file) {
          return file.relative == ".metadata" || (file.relative.ends_with(".distcp") &&
                                                  file.relative.find('/') == std::string::npos);
        });
    if (distributed) {
      const fs::path inner = subject.path / folder;
      const Judgement found =
          judge_dcp(Subject{subject.view, inner, folder, NameFacts(), part, subject.options});
      if (found.state != State::kComplete) {
        return {found.state, fmt::format("{}: {}", shown(folder), found.reason), {}, {}, {}};
      }
    }
  }
  const Contents contents = check_contents(subject);
  if (contents.fault) {
    return *contents.fault;
  }
  const auto difference = differs_from_previous(subject);
  if (subject.options.previous && !difference && contents.all_proven && contents.proven > 0) {
    return complete("It has the files and the size of the one before it, each in full.");
  }
  Judgement settled = judge_settled(subject.options, subject.tree.newest_nanos, "It");
  if (difference && settled.state == State::kComplete) {
    return incomplete(*difference);
  }
  if (difference) {
    settled.settles_at.reset();
    settled.reason = *difference;
  }
  return settled;
}

Judgement judge_declared(const Subject& subject) {
  const std::string& marker = subject.options.marker;
  if (subject.view.stat(subject.path / marker).ok()) {
    return complete(fmt::format("It has {}, the marker that the task declares.", shown(marker)));
  }
  return incomplete(fmt::format("It has no {}, the marker that the task declares.", shown(marker)));
}

}  // namespace

Judgement judge_folder(const Subject& subject, Framework framework) {
  if (subject.tree.cut) {
    return unknown(
        "It has more files or deeper folders than Quad looks at, or one it may not read.");
  }
  switch (framework) {
    case Framework::kTorchDcp:
      return judge_dcp(subject);
    case Framework::kHuggingFace:
      return judge_huggingface(subject);
    case Framework::kLightning:
      return judge_lightning_folder(subject);
    case Framework::kDeepSpeed:
      return judge_deepspeed(subject);
    case Framework::kMegatron:
      return judge_megatron(subject);
    case Framework::kOrbax:
      return judge_orbax(subject);
    case Framework::kSafetensors:
      return judge_sharded(subject);
    case Framework::kDeclared:
      return judge_declared(subject);
    case Framework::kUnknown:
    case Framework::kTorchFile:
      return judge_unknown(subject);
  }
  return unknown("It is of no known kind.");
}

}  // namespace quad::checkpoint
