// checkpoint/layout_rules.h
//
// What the rules of the frameworks share, and the rules that others nest in theirs. Inside this
// module only. Blocks for reads through the FileView; any thread.

#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "checkpoint/layouts.h"

namespace quad::checkpoint {

Judgement complete(std::string reason);
Judgement incomplete(std::string reason);
Judgement unknown(std::string reason);

/// "c.pt" of "a/b/c.pt".
std::string_view last_part(std::string_view relative);
/// The file of that relative name, or null. O(log files).
const TreeFile* find_file(const Tree& tree, std::string_view relative);
bool has_folder(const Tree& tree, std::string_view relative);
/// The part of a tree below one of its folders.
Tree subtree(const Tree& tree, const std::string& folder);
/// The number that follows `word` in a name; -1 if none does.
int number_after(std::string_view name, std::string_view word);
/// The text of a small file beside or in a checkpoint, trimmed.
std::optional<std::string> small_text(const FileView& view, const std::filesystem::path& path);

struct Contents {
  std::optional<Judgement> fault;
  bool all_proven = true;  ///< every file with a checkpoint's extension proves itself whole
  std::size_t proven = 0;
};
/// Checks each file that looks like a checkpoint's by its own format.
Contents check_contents(const Subject& subject);
/// That every file that the indexes of sharded weights name is there; nullopt if so. Counts them in
/// `found`.
std::optional<Judgement> check_indexes(const Subject& subject, std::size_t& found);

// The rules, one for each layout.
Judgement judge_dcp(const Subject& subject);
Judgement judge_sharded(const Subject& subject);
Judgement judge_deepspeed(const Subject& subject);
Judgement judge_huggingface(const Subject& subject);

}  // namespace quad::checkpoint
