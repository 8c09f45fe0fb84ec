#include "checkpoint/copy.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <functional>
#include <vector>

#include "base/file.h"
#include "base/remove_tree.h"
#include "checkpoint/file_view.h"
#include "checkpoint/names.h"

namespace quad::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxDepth = 16;
constexpr std::uint64_t kSpareBytes = 16U << 20U;

Error refused(std::string_view what, const fs::path& path, int failure) {
  return errno_error(fmt::format("Cannot {} {}", what, shown(path.string())), failure);
}

using FileAction =
    std::function<Status(const fs::path& source, const fs::path& target, const struct stat& info)>;

// A link to a folder, made anew so that it leads to the same place from somewhere else.
Status copy_link(const fs::path& source, const fs::path& target) {
  std::error_code failure;
  const fs::path place = fs::canonical(source, failure);
  if (failure || ::symlink(place.c_str(), target.c_str()) != 0) {
    return refused("make the link", target, failure ? failure.value() : errno);
  }
  return {};
}

// Does `action` for every plain file below `source`, making the folders of `target`; syncs each
// folder after its entries. A link to a folder is entered only at the top, so a loop of links
// cannot hold it.
Status each_file(const fs::path& source, const fs::path& target, const FileAction& action,
                 std::size_t depth = kMaxDepth) {
  struct stat info {};
  if (::stat(source.c_str(), &info) != 0) {
    return refused("look at", source, errno);
  }
  if (S_ISREG(info.st_mode)) {
    return action(source, target, info);
  }
  if (!S_ISDIR(info.st_mode)) {
    return {};  // a socket or FIFO is no part of a checkpoint
  }
  if (depth == 0) {
    return error(ErrorCode::kInvalid,
                 fmt::format("{} has too many folders in each other", shown(source.string())));
  }
  if (::mkdir(target.c_str(), 0755) != 0 && errno != EEXIST) {
    return refused("make the folder", target, errno);
  }
  QUAD_ASSIGN(const Listing listing, PosixFileView().list(source, 1'000'000));
  for (const std::string& name : listing.names) {
    const auto entry = PosixFileView().stat(source / name);
    if (!entry.ok() && entry.error().code == ErrorCode::kNotFound) {
      continue;  // a link that leads nowhere, or a file that its writer removed
    }
    if (entry.ok() && entry->link && entry->kind == FileKind::kFolder) {
      QUAD_TRY(copy_link(source / name, target / name));
      continue;
    }
    QUAD_TRY(each_file(source / name, target / name, action, depth - 1));
  }
  return sync_folder(target);
}

Status keep_times(int fd, const struct stat& info, const fs::path& target) {
  const std::array<timespec, 2> times = {info.st_atim, info.st_mtim};
  if (::futimens(fd, times.data()) != 0) {
    return refused("set the time of", target, errno);
  }
  return {};
}

Status copy_bytes(int from, int to, const fs::path& target) {
  std::vector<char> buffer(1U << 20U);
  for (;;) {
    const ssize_t got = ::read(from, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return refused("read for", target, errno);
    }
    if (got == 0) {
      return {};
    }
    if (auto put = write_all(to, std::string_view(buffer.data(), static_cast<std::size_t>(got)));
        !put.ok()) {
      return Error{put.error().code,
                   fmt::format("{} ({})", put.error().message, shown(target.string())),
                   {}};
    }
  }
}

Status check_space(const fs::path& source, const fs::path& target, const CopyOptions& options) {
  QUAD_ASSIGN(const FileInfo info, PosixFileView().stat(source));
  std::uint64_t need = info.size;
  if (info.kind == FileKind::kFolder) {
    Limits wide;
    wide.max_entries = 1'000'000;
    wide.max_depth = kMaxDepth;
    QUAD_ASSIGN(const Tree tree, read_tree(PosixFileView(), source, wide));
    need = tree.size;
  }
  if (need > options.max_copy_bytes) {
    return {};  // not copied by bytes anyway
  }
  struct statvfs space {};
  if (::statvfs(target.parent_path().c_str(), &space) != 0) {
    return {};
  }
  const std::uint64_t free = static_cast<std::uint64_t>(space.f_bavail) * space.f_frsize;
  // Some network file systems say 0 of everything, which means that they do not know.
  if (space.f_blocks != 0 && need + kSpareBytes > free) {
    return error(
        ErrorCode::kExhausted,
        fmt::format("{} has {} bytes free and a copy of {} needs {}; make room, for example "
                    "by keeping fewer checkpoints",
                    shown(target.parent_path().string()), free, shown(source.string()), need));
  }
  return {};
}

struct CopyState {
  const fs::path& source;  // the whole
  const fs::path& target;
  const CopyOptions& options;
  Copied copied;
  bool no_reflink = false;  // learned at the first file: not asked again
};

Status copy_file(const fs::path& source, const fs::path& target, const struct stat& info,
                 CopyState& state) {
  const UniqueFd from(::open(source.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!from) {
    return refused("read", source, errno);
  }
  const UniqueFd to(
      ::open(target.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, info.st_mode & 0777U));
  if (!to) {
    return refused("create", target, errno);
  }
  bool done = info.st_size == 0;
  if (!done && !state.no_reflink) {
    done = ::ioctl(to.get(), FICLONE, from.get()) == 0;
    state.no_reflink = !done;
    if (!done) {
      QUAD_TRY(check_space(state.source, state.target, state.options));
    }
  }
  if (!done) {
    const auto size = static_cast<std::uint64_t>(info.st_size);
    if (state.copied.bytes + size > state.options.max_copy_bytes) {
      return error(ErrorCode::kUnsupported,
                   fmt::format("{} is more than the {} bytes that are copied",
                               shown(source.string()), state.options.max_copy_bytes));
    }
    QUAD_TRY(copy_bytes(from.get(), to.get(), target));
    state.copied.bytes += size;
    state.copied.how = How::kCopy;
  }
  QUAD_TRY(keep_times(to.get(), info, target));
  if (::fsync(to.get()) != 0) {
    return refused("sync", target, errno);
  }
  // Somebody wrote while this was copied: the copy is a mixture.
  struct stat after {};
  if (::fstat(from.get(), &after) != 0 || after.st_size != info.st_size ||
      after.st_mtim.tv_sec != info.st_mtim.tv_sec ||
      after.st_mtim.tv_nsec != info.st_mtim.tv_nsec || after.st_ino != info.st_ino) {
    return error(ErrorCode::kUnavailable,
                 fmt::format("{} changed while it was copied", shown(source.string())));
  }
  return {};
}

}  // namespace

std::string_view to_string(How how) {
  switch (how) {
    case How::kHardLink:
      return "hard_link";
    case How::kReflink:
      return "reflink";
    case How::kCopy:
      return "copy";
    case How::kSymlink:
      return "symlink";
    case How::kInPlace:
      return "in_place";
  }
  return "in_place";
}

std::optional<How> how_from(std::string_view name) {
  for (const How how : {How::kHardLink, How::kReflink, How::kCopy, How::kSymlink, How::kInPlace}) {
    if (to_string(how) == name) {
      return how;
    }
  }
  return std::nullopt;
}

Result<Copied> copy_tree(const fs::path& source, const fs::path& target,
                         const CopyOptions& options) {
  CopyState state{source, target, options, {}, false};
  const Status done = each_file(
      source, target, [&](const fs::path& from, const fs::path& to, const struct stat& info) {
        return copy_file(from, to, info, state);
      });
  if (!done.ok()) {
    (void)remove_tree(target);
    return done.error();
  }
  return state.copied;
}

Status remove_tree(const fs::path& path) {
  return quad::remove_tree(path);
}

}  // namespace quad::checkpoint
