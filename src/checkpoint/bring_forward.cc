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
};

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
        items.push_back(Item{found.path / entry.name, target / entry.name});
      }
    }
    std::stable_partition(items.begin(), items.end(), [](const Item& item) {
      const std::string name = item.to.filename().string();
      return name != ".metadata" && !name.ends_with(".index.json");
    });
    return items;
  }
  for (const std::string& name : found.companions) {
    items.push_back(Item{found.path.parent_path() / name, target.parent_path() / name});
  }
  items.push_back(Item{found.path, target});
  return items;
}

// The dearer way of two, for the story.
How dearer(How a, How b) {
  return static_cast<int>(a) > static_cast<int>(b) ? a : b;
}

Result<How> bring_item(const Item& item, const fs::path& to, const BringOptions& options,
                       std::uint64_t& copied) {
  const auto done = copy_tree(item.from, to, CopyOptions{options.max_copy_bytes});
  if (done.ok()) {
    copied += done->bytes;
    return done->how;
  }
  if (done.error().code == ErrorCode::kUnsupported) {
    return How::kInPlace;
  }
  return done.error();
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
      return errno_error(fmt::format("{} has vanished", shown(built.string())), errno);
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
  record.state = StateOf{chosen.verdict.size, chosen.verdict.newest_nanos};
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
    const How how = told ? *how_from(earlier->how) : How::kCopy;
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
  Brought brought{target, How::kReflink, 0, false};
  const auto finish = [&]() -> Status {
    bool in_place = false;
    for (std::size_t i = 0; i < items.size(); ++i) {
      QUAD_ASSIGN(const How how, bring_item(items[i], workshop / std::to_string(i), options,
                                            brought.bytes_copied));
      brought.how = dearer(brought.how, how);
      in_place = in_place || how == How::kInPlace;
    }
    if (in_place) {
      // The whole is used where it is rather than torn apart. No link: what the script writes under
      // that name would go into the old attempt's only good one.
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
