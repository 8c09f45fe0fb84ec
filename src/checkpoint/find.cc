#include "checkpoint/find.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <tuple>
#include <utility>

#include "checkpoint/layouts.h"

namespace quad::checkpoint {
namespace {

namespace fs = std::filesystem;

class Search {
 public:
  Search(const FileView& view, const std::string& marker, const Limits& limits)
      : view_(view), marker_(marker), limits_(limits), budget_(limits.max_entries) {}

  Status run(const Root& root) {
    auto entries = entries_of(view_, root.path, budget_);
    if (!entries.ok()) {
      return entries.error();
    }
    in_folder(root.path, "", *entries, limits_.max_depth, true);
    const fs::path kept = root.path / kKeptFolder;
    if (auto inside = entries_of(view_, kept, budget_); inside.ok()) {
      const std::size_t before = result_.found.size();
      in_folder(kept, "", *inside, limits_.max_depth, true);
      for (std::size_t i = before; i < result_.found.size(); ++i) {
        result_.found[i].kept = true;
      }
    }
    return {};
  }

  FindResult take() {
    result_.cut = result_.cut || budget_ == 0;
    std::stable_sort(result_.found.begin(), result_.found.end(),
                     [](const Found& a, const Found& b) { return a.relative < b.relative; });
    return std::move(result_);
  }

 private:
  static std::string join(const std::string& folder, const std::string& name) {
    return folder.empty() ? name : folder + "/" + name;
  }

  void in_folder(const fs::path& folder, const std::string& relative,
                 const std::vector<Entry>& entries, std::size_t depth, bool is_root) {
    const auto layout = recognise_folder(folder.filename().string(), entries, marker_, is_root);
    if (layout) {
      Found found;
      found.path = folder;
      found.relative = relative;
      found.name = is_root ? NameFacts() : facts_of_name(folder.filename().string());
      found.top = is_root || !(found.name.step || found.name.training_epoch);
      if (auto info = view_.stat(folder); info.ok()) {
        found.info = *info;
      }
      const bool closed = !found.top;
      result_.found.push_back(std::move(found));
      if (closed) {
        return;
      }
      // An exported model may lie in the same folder as the files of a training run.
      if (*layout == Framework::kSafetensors) {
        std::vector<Entry> stepped;
        std::copy_if(entries.begin(), entries.end(), std::back_inserter(stepped),
                     [](const Entry& entry) { return facts_of_name(entry.name).step.has_value(); });
        files_in(folder, relative, stepped);
      }
    } else {
      files_in(folder, relative, entries);
    }
    for (const Entry& entry : entries) {
      if (entry.info.kind != FileKind::kFolder || is_temporary_name(entry.name)) {
        continue;
      }
      if (depth == 0) {
        result_.cut = true;
        return;
      }
      auto inside = entries_of(view_, folder / entry.name, budget_);
      if (!inside.ok()) {
        continue;
      }
      const std::string inner = join(relative, entry.name);
      // A link to a folder counts if it is a checkpoint; it is not searched, so that no loop can
      // hold the scan.
      if (entry.info.link && !recognise_folder(entry.name, *inside, marker_, false)) {
        continue;
      }
      in_folder(folder / entry.name, inner, *inside, entry.info.link ? 0 : depth - 1, false);
    }
  }

  void files_in(const fs::path& folder, const std::string& relative,
                const std::vector<Entry>& entries) {
    std::map<std::int64_t, std::vector<const Entry*>> groups;  // by step, where the name has one
    std::vector<const Entry*> sides;                           // optimizer.pt and the like
    std::vector<const Entry*> singles;
    for (const Entry& entry : entries) {
      if (entry.info.kind != FileKind::kFile || is_temporary_name(entry.name)) {
        continue;
      }
      const NameFacts facts = facts_of_name(entry.name);
      const bool checkpoint = is_checkpoint_file_name(entry.name);
      // A "best" is written now and then, beside the series: it stands for itself.
      const bool stands_alone =
          extension_of(entry.name) == ".ckpt" || entry.name.find("best") != std::string::npos;
      if (facts.step && !stands_alone && (checkpoint || extension_of(entry.name) == ".json")) {
        groups[*facts.step].push_back(&entry);
      } else if (!facts.step && is_side_file_name(entry.name)) {
        sides.push_back(&entry);
      } else if (checkpoint) {
        singles.push_back(&entry);
      }
    }
    const auto add = [&](const Entry& entry, std::vector<std::string> companions) {
      Found found;
      found.path = folder / entry.name;
      found.relative = join(relative, entry.name);
      found.info = entry.info;
      found.name = facts_of_name(entry.name);
      found.companions = std::move(companions);
      result_.found.push_back(std::move(found));
    };
    for (const Entry* entry : singles) {
      // "model.pt" goes with "optimizer.pt"; a Lightning file holds everything itself.
      std::vector<std::string> companions;
      if (!facts_of_name(entry->name).training_epoch && extension_of(entry->name) != ".ckpt") {
        for (const Entry* side : sides) {
          companions.push_back(side->name);
        }
      }
      add(*entry, std::move(companions));
    }
    for (const auto& [step, group] : groups) {
      add_group(group, add);
    }
  }

  template <typename Add>
  static void add_group(const std::vector<const Entry*>& group, const Add& add) {
    const Entry* primary = nullptr;
    const auto rank = [](const Entry& entry) {
      return std::tuple(is_checkpoint_file_name(entry.name), !is_side_file_name(entry.name),
                        entry.info.size);
    };
    for (const Entry* entry : group) {
      if (primary == nullptr || rank(*entry) > rank(*primary)) {
        primary = entry;
      }
    }
    // The optimizer alone is one whose model is still to come, or is being deleted.
    if (!is_checkpoint_file_name(primary->name) || is_side_file_name(primary->name)) {
      return;
    }
    std::vector<std::string> companions;
    for (const Entry* entry : group) {
      if (entry != primary) {
        companions.push_back(entry->name);
      }
    }
    add(*primary, std::move(companions));
  }

  const FileView& view_;
  const std::string& marker_;
  const Limits& limits_;
  std::size_t budget_;
  FindResult result_;
};

}  // namespace

Result<FindResult> find_candidates(const FileView& view, const Root& root,
                                   const std::string& marker, const Limits& limits) {
  Search search(view, marker, limits);
  QUAD_TRY(search.run(root));
  return search.take();
}

std::string series_of(const Found& found) {
  const fs::path relative(found.relative);
  return (found.kept ? "kept:" : "") + relative.parent_path().string() + "/" +
         shape_of_name(relative.filename().string());
}

Verdict validate_found(const FileView& view, const Found& found, ValidateOptions options) {
  options.top = found.top;
  Verdict verdict = validate(view, found.path, options);
  for (const std::string& name : found.companions) {
    const fs::path path = found.path.parent_path() / name;
    if (!is_checkpoint_file_name(name)) {
      if (auto info = view.stat(path); info.ok()) {
        verdict.size += info->size;
        ++verdict.files;
      }
      continue;
    }
    const Verdict part = validate(view, path, options);
    verdict.size += part.size;
    verdict.files += part.files;
    verdict.newest_nanos = std::max(verdict.newest_nanos, part.newest_nanos);
    verdict.oldest_nanos = std::min(verdict.oldest_nanos, part.oldest_nanos);
    const auto badness = [](State state) {
      return state == State::kIncomplete ? 2 : state == State::kUnknown ? 1 : 0;
    };
    if (badness(part.state) > badness(verdict.state)) {
      verdict.state = part.state;
      verdict.reason = part.reason;
      verdict.settles_at = part.settles_at;
    }
  }
  // A part that the one before it had, and this one lacks, is still to be written.
  if (verdict.state == State::kComplete && options.previous && found.name.step &&
      found.info.kind == FileKind::kFile && options.previous->files > verdict.files) {
    verdict.state = State::kIncomplete;
    verdict.reason = fmt::format("It has {} of the {} files that the step before it has.",
                                 verdict.files, options.previous->files);
  }
  return verdict;
}

}  // namespace quad::checkpoint
