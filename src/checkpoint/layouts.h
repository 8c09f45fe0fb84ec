// checkpoint/layouts.h
//
// The folders that frameworks write: how to recognise one, and when it is complete. Used by
// validate and find; not for others. Blocks for reads through the FileView; any thread.

#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/content.h"
#include "checkpoint/file_view.h"
#include "checkpoint/names.h"
#include "checkpoint/validate.h"

namespace quad::checkpoint {

/// The layout that a folder's name and the names in it speak for; nullopt if it is no checkpoint.
/// `marker` as in ValidateOptions. A root is never recognised by its own name.
std::optional<Framework> recognise_folder(const std::string& name, const std::vector<Entry>& inside,
                                          const std::string& marker, bool is_root);

struct Judgement {
  State state = State::kUnknown;
  std::string reason;
  std::optional<WallTime> settles_at;
  std::optional<std::int64_t> step;  ///< from inside, if the name has none
  std::optional<std::int64_t> training_epoch;
};

/// What a rule may look at.
struct Subject {
  const FileView& view;
  const std::filesystem::path& path;
  std::string name;
  NameFacts facts;
  const Tree& tree;
  const ValidateOptions& options;
};

Judgement judge_folder(const Subject& subject, Framework framework);

/// The rule for what no format can prove: still for long enough. `subject` begins the sentence.
Judgement judge_settled(const ValidateOptions& options, std::int64_t newest_nanos,
                        std::string subject);

}  // namespace quad::checkpoint
