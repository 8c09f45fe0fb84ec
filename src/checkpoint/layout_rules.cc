#include "checkpoint/layout_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "base/json.h"
#include "base/text.h"

namespace quad::checkpoint {

namespace fs = std::filesystem;

Judgement complete(std::string reason) {
  return {State::kComplete, std::move(reason), {}, {}, {}};
}
Judgement incomplete(std::string reason) {
  return {State::kIncomplete, std::move(reason), {}, {}, {}};
}
Judgement unknown(std::string reason) {
  return {State::kUnknown, std::move(reason), {}, {}, {}};
}

std::string_view last_part(std::string_view relative) {
  const std::size_t slash = relative.rfind('/');
  return slash == std::string_view::npos ? relative : relative.substr(slash + 1);
}

const TreeFile* find_file(const Tree& tree, std::string_view relative) {
  const auto found = std::lower_bound(
      tree.files.begin(), tree.files.end(), relative,
      [](const TreeFile& file, std::string_view name) { return file.relative < name; });
  return found == tree.files.end() || found->relative != relative ? nullptr : &*found;
}

bool has_folder(const Tree& tree, std::string_view relative) {
  return std::find(tree.folders.begin(), tree.folders.end(), relative) != tree.folders.end();
}

Tree subtree(const Tree& tree, const std::string& folder) {
  Tree part;
  part.cut = tree.cut;
  for (const TreeFile& file : tree.files) {
    if (file.relative.starts_with(folder + "/")) {
      const bool first = part.files.empty();
      part.size += file.info.size;
      part.newest_nanos =
          first ? file.info.mtime_nanos : std::max(part.newest_nanos, file.info.mtime_nanos);
      part.oldest_nanos =
          first ? file.info.mtime_nanos : std::min(part.oldest_nanos, file.info.mtime_nanos);
      part.files.push_back(TreeFile{file.relative.substr(folder.size() + 1), file.info});
    }
  }
  for (const std::string& inner : tree.folders) {
    if (inner.starts_with(folder + "/")) {
      part.folders.push_back(inner.substr(folder.size() + 1));
    }
  }
  return part;
}

std::optional<std::string> small_text(const FileView& view, const fs::path& path) {
  auto text = view.read(path, 0, 4096);
  return text.ok() ? std::optional(std::string(trim(*text))) : std::nullopt;
}

Contents check_contents(const Subject& subject) {
  Contents contents;
  for (const TreeFile& file : subject.tree.files) {
    const std::string name(last_part(file.relative));
    if (!is_checkpoint_file_name(name)) {
      continue;
    }
    const FileCheck check =
        check_file(subject.view, subject.path / file.relative, file.info, subject.options.limits);
    if (check.proof == Proof::kBroken) {
      contents.fault = incomplete(fmt::format("{} {}.", shown(file.relative), check.what));
      return contents;
    }
    if (check.proof == Proof::kGone ||
        (check.proof == Proof::kUnproven && check.what.starts_with("cannot be read"))) {
      contents.fault = unknown(fmt::format("{} {}.", shown(file.relative), check.what));
      return contents;
    }
    contents.all_proven = contents.all_proven && check.proof == Proof::kWhole;
    contents.proven += check.proof == Proof::kWhole ? 1 : 0;
  }
  return contents;
}

int number_after(std::string_view name, std::string_view word) {
  const std::size_t at = name.find(word);
  int value = -1;
  if (at != std::string_view::npos) {
    const std::string_view rest = name.substr(at + word.size());
    std::from_chars(rest.data(), rest.data() + rest.size(), value);
  }
  return value;
}

namespace {

/// That every file named in an index is there; nullopt if so.
std::optional<Judgement> check_index(const Subject& subject, const TreeFile& index) {
  if (index.info.size > subject.options.limits.max_json) {
    return unknown(fmt::format("{} is too long to check.", shown(index.relative)));
  }
  const auto text = subject.view.read(subject.path / index.relative, 0,
                                      static_cast<std::size_t>(index.info.size));
  if (!text.ok()) {
    return unknown(
        fmt::format("{} cannot be read: {}.", shown(index.relative), text.error().message));
  }
  const auto object = parse_json_object(*text, 16);
  const auto* map = object.ok() ? get_object(*object, "weight_map") : nullptr;
  if (map == nullptr) {
    return incomplete(fmt::format("{} is cut off or damaged.", shown(index.relative)));
  }
  std::set<std::string_view> names;
  for (const auto& member : *map) {
    if (const auto* name = member.value().if_string()) {
      names.insert(std::string_view(name->data(), name->size()));
    }
  }
  for (const std::string_view name : names) {
    if (find_file(subject.tree, name) == nullptr) {
      return incomplete(
          fmt::format("{} is missing, which {} names.", shown(name), shown(index.relative)));
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<Judgement> check_indexes(const Subject& subject, std::size_t& found) {
  for (const TreeFile& file : subject.tree.files) {
    if (file.relative.find('/') == std::string::npos &&
        (file.relative.ends_with(".safetensors.index.json") ||
         file.relative.ends_with(".bin.index.json"))) {
      ++found;
      if (auto fault = check_index(subject, file)) {
        return fault;
      }
    }
  }
  return std::nullopt;
}

Judgement judge_settled(const ValidateOptions& options, std::int64_t newest_nanos,
                        std::string subject) {
  const WallTime newest{newest_nanos / 1'000'000};
  // A time in the future is a clock that differs: the file counts as written just now.
  const Millis age =
      options.still_for.value_or(newest > options.now ? Millis(0) : options.now - newest);
  if (age >= options.settle) {
    return complete(
        fmt::format("{} has been unchanged for {}.", subject, format_duration(options.settle)));
  }
  Judgement judgement =
      unknown(fmt::format("{} changed {} ago and counts once it has been still for {}.", subject,
                          format_duration(age), format_duration(options.settle)));
  judgement.settles_at = options.now + (options.settle - age);
  return judgement;
}

}  // namespace quad::checkpoint
