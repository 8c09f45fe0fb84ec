#include "checkpoint/file_view.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include "base/file.h"
#include "checkpoint/names.h"

namespace quad::checkpoint {
namespace {

namespace fs = std::filesystem;

Error refused(std::string_view what, const fs::path& path, int failure) {
  Error result = errno_error(fmt::format("Cannot {} {}", what, shown(path.string())), failure);
  // A loop of links is a name that leads nowhere, like a broken link.
  if (failure == ENOENT || failure == ENOTDIR || failure == ELOOP || failure == ESTALE) {
    result.code = ErrorCode::kNotFound;
  }
  return result;
}

FileInfo info_of(const struct stat& found) {
  FileInfo info;
  info.kind = S_ISREG(found.st_mode)   ? FileKind::kFile
              : S_ISDIR(found.st_mode) ? FileKind::kFolder
                                       : FileKind::kOther;
  info.size = static_cast<std::uint64_t>(found.st_size);
  info.mtime_nanos = static_cast<std::int64_t>(found.st_mtim.tv_sec) * 1'000'000'000 +
                     static_cast<std::int64_t>(found.st_mtim.tv_nsec);
  info.inode = found.st_ino;
  info.device = found.st_dev;
  return info;
}

}  // namespace

Result<FileInfo> PosixFileView::stat(const fs::path& path) const {
  struct stat found {};
  if (::lstat(path.c_str(), &found) != 0) {
    return refused("look at", path, errno);
  }
  const bool link = S_ISLNK(found.st_mode);
  if (link && ::stat(path.c_str(), &found) != 0) {
    return refused("look at", path, errno);
  }
  FileInfo info = info_of(found);
  info.link = link;
  return info;
}

Result<Listing> PosixFileView::list(const fs::path& folder, std::size_t max_entries) const {
  const auto close = [](DIR* open) { ::closedir(open); };
  const std::unique_ptr<DIR, decltype(close)> open(::opendir(folder.c_str()), close);
  if (!open) {
    return refused("list the folder", folder, errno);
  }
  Listing listing;
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(open.get());
    if (entry == nullptr) {
      if (errno != 0) {
        return refused("list the folder", folder, errno);
      }
      break;
    }
    const std::string_view name = entry->d_name;
    if (name == "." || name == "..") {
      continue;
    }
    if (listing.names.size() == max_entries) {
      listing.cut = true;
      break;
    }
    listing.names.emplace_back(name);
  }
  std::sort(listing.names.begin(), listing.names.end());
  return listing;
}

Result<std::string> PosixFileView::read(const fs::path& path, std::uint64_t offset,
                                        std::size_t length) const {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) {
    return refused("read", path, errno);
  }
  struct stat found {};
  if (::fstat(fd.get(), &found) != 0) {
    return refused("read", path, errno);
  }
  if (!S_ISREG(found.st_mode)) {
    return error(ErrorCode::kIo, fmt::format("{} is not a plain file", shown(path.string())));
  }
  const auto size = static_cast<std::uint64_t>(found.st_size);
  std::string bytes(
      static_cast<std::size_t>(std::min<std::uint64_t>(length, size > offset ? size - offset : 0)),
      '\0');
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t got = ::pread(fd.get(), bytes.data() + filled, bytes.size() - filled,
                                static_cast<off_t>(offset + filled));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return refused("read", path, errno);
    }
    if (got == 0) {
      break;
    }
    filled += static_cast<std::size_t>(got);
  }
  bytes.resize(filled);
  return bytes;
}

Result<std::vector<Entry>> entries_of(const FileView& view, const fs::path& folder,
                                      std::size_t& budget) {
  QUAD_ASSIGN(Listing listing, view.list(folder, budget));
  budget = listing.cut ? 0 : budget - std::min(budget, listing.names.size());
  std::vector<Entry> entries;
  entries.reserve(listing.names.size());
  for (std::string& name : listing.names) {
    auto info = view.stat(folder / name);
    if (info.ok()) {
      entries.push_back(Entry{std::move(name), *info});
    }
  }
  return entries;
}

namespace {

void add_folder(const FileView& view, const fs::path& folder, const std::string& relative,
                std::size_t depth, bool recurse, std::size_t& budget, Tree& tree) {
  auto entries = entries_of(view, folder, budget);
  if (!entries.ok()) {
    // A folder that vanished is no file; one that may not be read hides files.
    tree.cut = tree.cut || entries.error().code != ErrorCode::kNotFound;
    return;
  }
  tree.cut = tree.cut || budget == 0;
  for (Entry& entry : *entries) {
    std::string name = relative.empty() ? entry.name : relative + "/" + entry.name;
    if (entry.info.kind == FileKind::kFolder) {
      tree.folders.push_back(name);
      if (!recurse || entry.info.link) {
        continue;
      }
      if (depth == 0) {
        tree.cut = true;
        continue;
      }
      add_folder(view, folder / entry.name, name, depth - 1, recurse, budget, tree);
    } else if (entry.info.kind == FileKind::kFile) {
      const bool first = tree.files.empty();
      tree.size += entry.info.size;
      tree.newest_nanos =
          first ? entry.info.mtime_nanos : std::max(tree.newest_nanos, entry.info.mtime_nanos);
      tree.oldest_nanos =
          first ? entry.info.mtime_nanos : std::min(tree.oldest_nanos, entry.info.mtime_nanos);
      tree.files.push_back(TreeFile{std::move(name), entry.info});
    }
  }
}

}  // namespace

Result<Tree> read_tree(const FileView& view, const fs::path& folder, const Limits& limits,
                       bool recurse) {
  QUAD_ASSIGN(const FileInfo info, view.stat(folder));
  if (info.kind != FileKind::kFolder) {
    return error(ErrorCode::kNotFound, fmt::format("{} is no folder", shown(folder.string())));
  }
  Tree tree;
  std::size_t budget = limits.max_entries;
  add_folder(view, folder, "", limits.max_depth, recurse, budget, tree);
  std::sort(tree.files.begin(), tree.files.end(),
            [](const TreeFile& a, const TreeFile& b) { return a.relative < b.relative; });
  return tree;
}

}  // namespace quad::checkpoint
