// Which layout a folder's name and the names in it speak for.

#include <algorithm>

#include "checkpoint/layouts.h"

namespace quad::checkpoint {
namespace {

bool is_trainer_name(std::string_view name) {
  constexpr std::string_view kPrefix = "checkpoint-";
  return name.starts_with(kPrefix) && name.size() > kPrefix.size() &&
         name.find_first_not_of("0123456789", kPrefix.size()) == std::string_view::npos;
}

/// Whether a folder with the Trainer's kind of name was written by something else: Accelerate's
/// save_state, or a script of its own. An empty one, or one with a model only, is a Trainer's that
/// is being written.
bool is_somebody_elses(const std::vector<Entry>& inside) {
  bool trainer = false;
  bool accelerate = false;
  bool model = false;
  bool file = false;
  for (const Entry& entry : inside) {
    const std::string_view name = entry.name;
    trainer = trainer || name == "training_args.bin" || name == "trainer_state.json";
    accelerate = accelerate || name.starts_with("random_states_") || name == "optimizer.bin";
    model = model || name.starts_with("model.safetensors") || name.starts_with("model-0") ||
            name.starts_with("pytorch_model") || name.starts_with("adapter_model");
    file = file || (is_checkpoint_file_name(name) && !is_temporary_name(name));
  }
  return !trainer && (accelerate || (file && !model));
}

}  // namespace

std::optional<Framework> recognise_folder(const std::string& name, const std::vector<Entry>& inside,
                                          const std::string& marker, bool is_root) {
  const NameFacts facts = is_root ? NameFacts() : facts_of_name(name);
  bool dcp = false;
  bool hugging_face = false;
  bool deepspeed = false;
  bool orbax = false;
  bool index = false;
  bool marked = false;
  bool deepspeed_inside = false;
  std::size_t files = 0;
  std::size_t stepped_files = 0;
  for (const Entry& entry : inside) {
    const std::string& inner = entry.name;
    marked = marked || (!marker.empty() && inner == marker);
    if (entry.info.kind == FileKind::kFolder) {
      deepspeed_inside =
          deepspeed_inside || inner == "checkpoint" || inner.starts_with("global_step");
      continue;
    }
    dcp = dcp || inner == ".metadata" || inner == ".metadata.tmp" || inner.ends_with(".distcp");
    hugging_face = hugging_face || inner == "trainer_state.json";
    deepspeed = deepspeed || inner.ends_with("_model_states.pt");
    orbax = orbax || inner == "_CHECKPOINT_METADATA" || inner == "commit_success.txt";
    index =
        index || inner.ends_with(".safetensors.index.json") || inner.ends_with(".bin.index.json");
    if (is_checkpoint_file_name(inner) && !is_temporary_name(inner)) {
      ++files;
      const NameFacts inner_facts = facts_of_name(inner);
      stepped_files += inner_facts.step || inner_facts.training_epoch ? 1 : 0;
    }
  }
  const bool by_keyword = facts.source == StepSource::kKeyword;
  if (!marker.empty() && (marked || (!is_root && (facts.step || facts.training_epoch)))) {
    return Framework::kDeclared;
  }
  if (!is_root) {
    if (name.starts_with("iter_") && facts.step) {
      return Framework::kMegatron;
    }
    if (name.starts_with("global_step") && facts.step) {
      return Framework::kDeepSpeed;
    }
    if (name.ends_with(".ckpt") && (dcp || deepspeed_inside)) {
      return Framework::kLightning;
    }
    if (hugging_face && facts.step) {
      return Framework::kHuggingFace;
    }
  }
  if (dcp) {
    return Framework::kTorchDcp;
  }
  if (deepspeed) {
    return Framework::kDeepSpeed;
  }
  if (orbax && !is_root) {
    return Framework::kOrbax;
  }
  if (is_root) {
    return index ? std::optional(Framework::kSafetensors) : std::nullopt;
  }
  if (is_trainer_name(name)) {
    return is_somebody_elses(inside) ? Framework::kUnknown : Framework::kHuggingFace;
  }
  if (by_keyword || ((facts.step || facts.training_epoch) && files > stepped_files)) {
    // A folder named for its step that only holds files named for theirs is a folder of
    // checkpoints.
    if (files > 0 && stepped_files == files && !index) {
      return std::nullopt;
    }
    return index && files == 0 ? Framework::kSafetensors : Framework::kUnknown;
  }
  return index ? std::optional(Framework::kSafetensors) : std::nullopt;
}

}  // namespace quad::checkpoint
