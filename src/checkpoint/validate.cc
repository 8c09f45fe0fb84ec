#include "checkpoint/validate.h"

#include <fmt/format.h>

#include <utility>

#include "checkpoint/layouts.h"

namespace quad::checkpoint {
namespace {

namespace fs = std::filesystem;

Verdict unreadable(const fs::path& path, const Error& failure) {
  Verdict verdict;
  verdict.state = failure.code == ErrorCode::kNotFound ? State::kIncomplete : State::kUnknown;
  verdict.reason = failure.code == ErrorCode::kNotFound
                       ? fmt::format("{} is not there (any more).", shown(path.filename().string()))
                       : failure.message + ".";
  return verdict;
}

Verdict validate_file(const FileView& view, const fs::path& path, const FileInfo& info,
                      const ValidateOptions& options) {
  const std::string name = path.filename().string();
  const std::string extension = extension_of(name);
  Verdict verdict;
  verdict.framework =
      extension == ".ckpt"          ? Framework::kLightning
      : extension == ".safetensors" ? Framework::kSafetensors
      : extension == ".pt" || extension == ".pth" || extension == ".bin" || extension == ".tar"
          ? Framework::kTorchFile
          : Framework::kUnknown;
  const NameFacts facts = facts_of_name(name);
  verdict.step = facts.step;
  verdict.training_epoch = facts.training_epoch;
  verdict.size = info.size;
  verdict.files = 1;
  verdict.newest_nanos = info.mtime_nanos;
  verdict.oldest_nanos = info.mtime_nanos;
  const FileCheck check = check_file(view, path, info, options.limits, !facts.step);
  if (check.inside) {
    verdict.step = facts.step ? facts.step : check.inside->step;
    verdict.training_epoch =
        facts.training_epoch ? facts.training_epoch : check.inside->training_epoch;
  }
  verdict.reason = fmt::format("{} {}.", shown(name), check.what);
  switch (check.proof) {
    case Proof::kWhole:
      verdict.state = State::kComplete;
      break;
    case Proof::kBroken:
    case Proof::kGone:
      verdict.state = State::kIncomplete;
      break;
    case Proof::kUnproven: {
      if (check.what.starts_with("cannot be read") || check.what.starts_with("changed")) {
        break;
      }
      Judgement settled = judge_settled(options, info.mtime_nanos, "it");
      verdict.state = settled.state;
      verdict.settles_at = settled.settles_at;
      verdict.reason = fmt::format("{} {}; {}", shown(name), check.what, settled.reason);
      break;
    }
  }
  return verdict;
}

Verdict validate_folder(const FileView& view, const fs::path& path,
                        const ValidateOptions& options) {
  const std::string name = path.filename().string();
  std::size_t budget = options.limits.max_entries;
  const auto inside = entries_of(view, path, budget);
  if (!inside.ok()) {
    return unreadable(path, inside.error());
  }
  const auto tree = read_tree(view, path, options.limits, !options.top);
  if (!tree.ok()) {
    return unreadable(path, tree.error());
  }
  Verdict verdict;
  verdict.framework =
      recognise_folder(name, *inside, options.marker, options.top).value_or(Framework::kUnknown);
  verdict.size = tree->size;
  verdict.files = tree->files.size();
  verdict.newest_nanos = tree->newest_nanos;
  verdict.oldest_nanos = tree->oldest_nanos;
  const NameFacts facts = options.top ? NameFacts() : facts_of_name(name);
  const Subject subject{view, path, name, facts, *tree, options};
  Judgement judgement = judge_folder(subject, verdict.framework);
  verdict.state = judgement.state;
  verdict.reason = std::move(judgement.reason);
  verdict.settles_at = judgement.settles_at;
  verdict.step = facts.step ? facts.step : judgement.step;
  verdict.training_epoch = facts.training_epoch ? facts.training_epoch : judgement.training_epoch;
  return verdict;
}

}  // namespace

std::string_view to_string(State state) {
  switch (state) {
    case State::kComplete:
      return "complete";
    case State::kIncomplete:
      return "incomplete";
    case State::kUnknown:
      return "unknown";
  }
  return "unknown";
}

std::string_view to_string(Framework framework) {
  switch (framework) {
    case Framework::kUnknown:
      return "unknown";
    case Framework::kTorchFile:
      return "torch";
    case Framework::kSafetensors:
      return "safetensors";
    case Framework::kTorchDcp:
      return "dcp";
    case Framework::kHuggingFace:
      return "huggingface";
    case Framework::kLightning:
      return "lightning";
    case Framework::kDeepSpeed:
      return "deepspeed";
    case Framework::kMegatron:
      return "megatron";
    case Framework::kOrbax:
      return "orbax";
    case Framework::kDeclared:
      return "declared";
  }
  return "unknown";
}

Verdict validate(const FileView& view, const fs::path& path, const ValidateOptions& options) {
  const auto info = view.stat(path);
  if (!info.ok()) {
    return unreadable(path, info.error());
  }
  switch (info->kind) {
    case FileKind::kFile:
      return validate_file(view, path, *info, options);
    case FileKind::kFolder:
      return validate_folder(view, path, options);
    case FileKind::kOther:
      break;
  }
  Verdict verdict;
  verdict.state = State::kIncomplete;
  verdict.reason =
      fmt::format("{} is neither a file nor a folder.", shown(path.filename().string()));
  return verdict;
}

}  // namespace quad::checkpoint
