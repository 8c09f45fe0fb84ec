#include "checkpoint/bring_forward.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "base/file.h"
#include "checkpoint/names.h"
#include "checkpoint/take_over.h"

namespace quad::checkpoint {
namespace {

namespace fs = std::filesystem;

// One name to bring: from where, and where to in the new directory.
struct Item {
  fs::path from;
  fs::path to;
  bool carries_step = false;
};

bool carries_step(const NameFacts& facts) {
  return facts.step || facts.training_epoch;
}

// What has to come: the checkpoint with its companions, what completes it last.
Result<std::vector<Item>> items_of(const FileView& view, const Candidate& chosen,
                                   const fs::path& target) {
  const Found& found = chosen.found;
  std::vector<Item> items;
  if (found.top) {
    std::size_t budget = 1'000'000;
    QUAD_ASSIGN(const std::vector<Entry> entries, entries_of(view, found.path, budget));
    for (const Entry& entry : entries) {
      if (entry.info.kind == FileKind::kFile &&
          (entry.name == ".metadata" || !is_temporary_name(entry.name))) {
        items.push_back(Item{found.path / entry.name, target / entry.name, false});
      }
    }
    std::stable_partition(items.begin(), items.end(), [](const Item& item) {
      const std::string name = item.to.filename().string();
      return name != ".metadata" && !name.ends_with(".index.json");
    });
    return items;
  }
  for (const std::string& name : found.companions) {
    items.push_back(Item{found.path.parent_path() / name, target.parent_path() / name,
                         !found.kept && carries_step(facts_of_name(name))});
  }
  items.push_back(Item{found.path, target, !found.kept && carries_step(found.name)});
  return items;
}

// The dearer way of two, for the story.
How dearer(How a, How b) {
  return static_cast<int>(a) > static_cast<int>(b) ? a : b;
}

Result<How> bring_symlink(const fs::path& from, const fs::path& to) {
  std::error_code failure;
  const fs::path place = fs::canonical(from, failure);
  if (!failure && ::symlink(place.c_str(), to.c_str()) == 0) {
    return How::kSymlink;
  }
  const int why = failure ? failure.value() : errno;
  if (why == ENOTSUP || why == EOPNOTSUPP || why == ENOSYS || why == EPERM) {
    return How::kInPlace;
  }
  return errno_error(fmt::format("Cannot make the link {}", shown(to.string())), why);
}

Result<How> bring_item(const Item& item, const fs::path& to, const BringOptions& options,
                       std::uint64_t& copied) {
  if (item.carries_step) {
    const Status linked = link_tree(item.from, to);
    if (linked.ok()) {
      return How::kHardLink;
    }
    if (linked.error().code != ErrorCode::kUnsupported) {
      return linked.error();
    }
    // Nobody writes into it again, so a link is as good as a copy and costs nothing.
    return bring_symlink(item.from, to);
  }
  const auto done = copy_tree(item.from, to, CopyOptions{options.max_copy_bytes});
  if (done.ok()) {
    copied += done->bytes;
    return done->how;
  }
  if (done.error().code != ErrorCode::kUnsupported) {
    return done.error();
  }
  return bring_symlink(item.from, to);
}

// What the loaders of these frameworks look for beside the folder.
Status write_trackers(const Candidate& chosen, const fs::path& target) {
  const std::string name = target.filename().string();
  if (chosen.verdict.framework == Framework::kDeepSpeed && !chosen.found.top) {
    return write_file_atomically(target.parent_path() / "latest", name);
  }
  if (chosen.verdict.framework == Framework::kMegatron && chosen.verdict.step) {
    return write_file_atomically(target.parent_path() / "latest_checkpointed_iteration.txt",
                                 fmt::format("{}", *chosen.verdict.step));
  }
  return {};
}

// Whether an earlier call had brought it: all items there, and the whole as large as it was.
bool is_there(const FileView& view, const Candidate& chosen, const fs::path& target,
              const std::vector<Item>& items, const BringOptions& options) {
  for (const Item& item : items) {
    if (!view.stat(item.to).ok()) {
      return false;
    }
  }
  Found there = chosen.found;
  there.path = target;
  ValidateOptions checks;
  checks.now = options.now;
  checks.settle = Millis(0);
  checks.marker = options.marker;
  const Verdict verdict = validate_found(view, there, checks);
  return verdict.state == State::kComplete && verdict.size == chosen.verdict.size;
}

How how_it_came(const FileView& view, const Item& item) {
  struct stat itself {};
  if (::lstat(item.to.c_str(), &itself) == 0 && S_ISLNK(itself.st_mode)) {
    return How::kSymlink;
  }
  fs::path from = item.from;
  fs::path to = item.to;
  const auto tree = read_tree(view, to, Limits());
  if (tree.ok() && !tree->files.empty()) {
    from /= tree->files.front().relative;
    to /= tree->files.front().relative;
  }
  const auto old_one = view.stat(from);
  const auto new_one = view.stat(to);
  return old_one.ok() && new_one.ok() && old_one->inode == new_one->inode &&
                 old_one->device == new_one->device
             ? How::kHardLink
             : How::kCopy;
}

// Leftovers of a call that died.
Status sweep(const fs::path& folder) {
  const auto listing = PosixFileView().list(folder, 100'000);
  for (const std::string& name : listing.ok() ? listing->names : std::vector<std::string>()) {
    if (name.starts_with(".bringing-")) {
      QUAD_TRY(remove_tree(folder / name));
    }
  }
  return {};
}

Status move_into_place(const std::vector<Item>& items, const fs::path& workshop) {
  for (std::size_t i = 0; i < items.size(); ++i) {
    const fs::path built = workshop / std::to_string(i);
    struct stat info {};
    if (::lstat(built.c_str(), &info) != 0) {
      continue;  // used where it is
    }
    struct stat old_info {};
    if (::lstat(items[i].to.c_str(), &old_info) == 0 &&
        (S_ISDIR(old_info.st_mode) || S_ISDIR(info.st_mode))) {
      QUAD_TRY(remove_tree(items[i].to));
    }
    if (::rename(built.c_str(), items[i].to.c_str()) != 0) {
      return errno_error(fmt::format("Cannot move {} into its place", shown(items[i].to.string())),
                         errno);
    }
  }
  return {};
}

}  // namespace

Result<Brought> bring_forward(const FileView& view, const Candidate& chosen,
                              const fs::path& to_root, Epoch to_epoch,
                              const BringOptions& options) {
  TakeOver record;
  record.epoch = to_epoch;
  record.from = chosen.found.path.string();
  record.step = chosen.verdict.step;
  record.path = chosen.found.path.string();
  record.how = to_string(How::kInPlace);
  const auto earlier = read_take_over(view, to_root);
  if (chosen.root.users_own) {
    QUAD_TRY(write_take_over(to_root, record));
    return Brought{chosen.found.path, How::kInPlace, 0, false};
  }
  if (chosen.root.path.lexically_normal() == to_root.lexically_normal()) {
    // The selection found what an earlier call had brought here.
    const bool told = earlier && earlier->path == record.path;
    if (!earlier) {
      QUAD_TRY(write_take_over(to_root, record));
    }
    return Brought{chosen.found.path,
                   told ? how_from(earlier->how).value_or(How::kInPlace) : How::kInPlace, 0, true};
  }
  const fs::path target = chosen.found.relative.empty() ? to_root : to_root / chosen.found.relative;
  const fs::path folder = chosen.found.top ? target : target.parent_path();
  QUAD_TRY(make_folders(folder));
  QUAD_TRY(sweep(folder));
  QUAD_ASSIGN(const std::vector<Item> items, items_of(view, chosen, target));
  if (items.empty()) {
    return error(ErrorCode::kNotFound,
                 fmt::format("{} has vanished", shown(chosen.found.path.string())));
  }
  record.path = target.string();
  if (is_there(view, chosen, target, items, options)) {
    const bool told = earlier && earlier->path == record.path && how_from(earlier->how);
    const How how = told ? *how_from(earlier->how) : how_it_came(view, items.back());
    if (!told) {
      record.how = to_string(how);
      QUAD_TRY(write_take_over(to_root, record));
    }
    QUAD_TRY(write_trackers(chosen, target));
    return Brought{target, how, 0, true};
  }
  const fs::path workshop = folder / fmt::format(".bringing-{}", to_epoch.value());
  if (::mkdir(workshop.c_str(), 0755) != 0) {
    return errno_error(fmt::format("Cannot make the folder {}", shown(workshop.string())), errno);
  }
  Brought brought{target, How::kHardLink, 0, false};
  const auto finish = [&]() -> Status {
    bool in_place = false;
    for (std::size_t i = 0; i < items.size(); ++i) {
      QUAD_ASSIGN(const How how, bring_item(items[i], workshop / std::to_string(i), options,
                                            brought.bytes_copied));
      brought.how = dearer(brought.how, how);
      in_place = in_place || how == How::kInPlace;
    }
    if (in_place) {
      // No kind of link here: the whole is used where it is rather than torn apart.
      brought.path = chosen.found.path;
      record.path = brought.path.string();
      return write_take_over(to_root, record);
    }
    record.how = to_string(brought.how);
    QUAD_TRY(write_take_over(to_root, record));
    QUAD_TRY(sync_folder(workshop));
    QUAD_TRY(move_into_place(items, workshop));
    QUAD_TRY(write_trackers(chosen, target));
    return sync_folder(folder);
  };
  const Status done = finish();
  (void)remove_tree(workshop);
  if (!done.ok()) {
    return done.error();
  }
  return brought;
}

Status begin_afresh(const fs::path& to_root, Epoch to_epoch) {
  QUAD_TRY(make_folders(to_root));
  TakeOver record;
  record.epoch = to_epoch;
  record.how = "none";
  return write_take_over(to_root, record);
}

}  // namespace quad::checkpoint
