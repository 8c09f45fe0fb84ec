#include "runner/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/text.h"
#include "runner/brought.h"
#include "runner/parents.h"
#include "runner/room.h"

namespace quad::runner {
namespace {

constexpr std::size_t kMostEntries = 20'000'000;

struct ArchiveCloser {
  void operator()(archive* reader) const { archive_read_free(reader); }
};
using Reader = std::unique_ptr<archive, ArchiveCloser>;

// What libarchive's callback needs: the source, and the error that it met.
struct Feed {
  const ByteSource& source;
  Status failure;
};

la_ssize_t feed_archive(archive* reader, void* data, const void** bytes) {
  auto* feed = static_cast<Feed*>(data);
  auto piece = feed->source();
  if (!piece.ok()) {
    feed->failure = piece.error();
    archive_set_error(reader, EIO, "%s", piece.error().message.c_str());
    return -1;
  }
  *bytes = piece.value().data();
  return static_cast<la_ssize_t>(piece.value().size());
}

Result<Reader> open_archive(Feed& feed) {
  Reader reader(archive_read_new());
  archive_read_support_format_tar(reader.get());
  archive_read_support_filter_zstd(reader.get());
  archive_read_support_filter_gzip(reader.get());
  archive_read_support_filter_none(reader.get());
  if (archive_read_open(reader.get(), &feed, nullptr, feed_archive, nullptr) != ARCHIVE_OK) {
    QUAD_TRY(feed.failure);
    return error(ErrorCode::kInvalid,
                 fmt::format("The archive cannot be read: {}", archive_error_string(reader.get())));
  }
  return reader;
}

// The parts of an entry's name; an error if it would leave the folder.
Result<std::vector<std::string>> safe_parts(std::string_view name) {
  if (name.starts_with('/')) {
    return error(ErrorCode::kInvalid,
                 fmt::format("The archive holds the absolute name {}, which is not allowed", name));
  }
  std::vector<std::string> parts;
  for (const std::string_view part : split(name, '/')) {
    if (part == "..") {
      return error(ErrorCode::kInvalid,
                   fmt::format("The archive holds the name {}, which leaves its folder", name));
    }
    if (!part.empty() && part != ".") {
      parts.emplace_back(part);
    }
  }
  return parts;
}

class Unpacker {
 public:
  Unpacker(archive* reader, Feed& feed, const UnpackOptions& options)
      : reader_(reader),
        feed_(feed),
        memory_(options.memory),
        durable_(options.durable),
        keeps_room_(options.keeps_room),
        temporary_(memory_ != nullptr ? memory_->temporary() : ".quad-" + random_hex(8)) {}

  Status into_folder(const std::filesystem::path& folder) {
    root_path_ = folder;
    root_ = UniqueFd(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!root_) {
      return errno_error(fmt::format("Cannot open the folder {}", folder.string()), errno);
    }
    if (keeps_room_) {
      room_.watch(root_.get());
    }
    for (;;) {
      archive_entry* entry = nullptr;
      QUAD_ASSIGN(const bool more, next(entry));
      if (!more) {
        break;
      }
      QUAD_TRY(add(entry));
    }
    return finish_folders();
  }

  Status into_file(const std::filesystem::path& file) {
    for (;;) {
      archive_entry* entry = nullptr;
      QUAD_ASSIGN(const bool more, next(entry));
      if (!more) {
        return error(ErrorCode::kInvalid, "The archive holds no file");
      }
      if (archive_entry_filetype(entry) != AE_IFREG) {
        continue;
      }
      const UniqueFd folder(::open(file.parent_path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
      if (!folder) {
        return errno_error(fmt::format("Cannot open the folder {}", file.parent_path().string()),
                           errno);
      }
      if (keeps_room_) {
        room_.watch(folder.get());
      }
      const std::string name = file.filename().string();
      root_path_ = file.parent_path();
      is_tree_ = false;
      QUAD_TRY(expect(folder.get(), name, "", fact_of(entry)));
      QUAD_TRY(
          replace(folder.get(), name, name, [&] { return write_file(folder.get(), name, entry); }));
      return durable_ ? sync_folder(file.parent_path()) : Status();
    }
  }

  Unpacked result;

 private:
  Result<bool> next(archive_entry*& entry) {
    const int status = archive_read_next_header(reader_, &entry);
    if (status == ARCHIVE_EOF) {
      return false;
    }
    if (status != ARCHIVE_OK && status != ARCHIVE_WARN) {
      return archive_failure();
    }
    if (++result.entries > kMostEntries) {
      return error(ErrorCode::kExhausted,
                   fmt::format("The archive holds more than {} entries", kMostEntries));
    }
    QUAD_TRY(room_.take_entry());
    return true;
  }

  /// Where an entry goes, for messages.
  [[nodiscard]] std::string at_place(const std::string& name) const {
    if (memory_ != nullptr) {
      return memory_->shown(is_tree_ ? name : std::string());
    }
    return (root_path_ / name).string();
  }

  /// To be called before something is made.
  Status expect(int parent, const std::string& last, const std::string& path, const Fact& fact) {
    return memory_ == nullptr ? Status() : memory_->expect(parent, last, path, fact);
  }

  static Fact fact_of(archive_entry* entry) {
    const timespec time{archive_entry_mtime(entry), archive_entry_mtime_nsec(entry)};
    return Fact::file(
        static_cast<std::uint64_t>(std::max<la_int64_t>(archive_entry_size(entry), 0)), time);
  }

  Error archive_failure() {
    if (!feed_.failure.ok()) {
      return feed_.failure.error();
    }
    const char* what = archive_error_string(reader_);
    return error(ErrorCode::kInvalid,
                 fmt::format("The archive is damaged: {}", what == nullptr ? "unknown" : what));
  }

  // The folder that holds the entry, made if need be, without following any link.
  Result<int> parent_of(const std::vector<std::string>& parts, const std::string& name) {
    const std::vector<std::string> above(parts.begin(), parts.end() - 1);
    if (parent_ && above == parent_parts_) {
      return parent_.get();
    }
    UniqueFd at(::fcntl(root_.get(), F_DUPFD_CLOEXEC, 3));
    std::string path;
    for (const std::string& part : above) {
      path += (path.empty() ? "" : "/") + part;
      int next = ::openat(at.get(), part.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
      // What this archive has brought itself is a trap, and no folder that was there.
      const bool other_type = next < 0 && (errno == ENOTDIR || errno == ELOOP) &&
                              memory_ != nullptr && memory_->expected(path) == nullptr;
      if ((next < 0 && errno == ENOENT) || other_type) {
        QUAD_TRY(expect(at.get(), part, path, Fact::folder()));
        ::mkdirat(at.get(), part.c_str(), 0755);
        next = ::openat(at.get(), part.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
      }
      if (next < 0) {
        if (errno == ENOTDIR || errno == ELOOP) {
          return error(
              ErrorCode::kInvalid,
              fmt::format("The archive would write {} through {}, which is no folder", name, part));
        }
        return errno_error(fmt::format("Cannot make the folder of {}", at_place(name)), errno);
      }
      at.reset(next);
      QUAD_TRY(open_up(at.get(), path));
    }
    parent_ = std::move(at);
    parent_parts_ = above;
    return parent_.get();
  }

  // A folder that was brought before may have been closed to its owner then; it gets its mode at
  // the end.
  Status open_up(int folder, const std::string& path) const {
    if (memory_ == nullptr || memory_->expected(path) != nullptr ||
        !memory_->was_brought(path, Fact::Kind::kFolder)) {
      return {};
    }
    allow_writing(folder);
    return memory_->know(path, Fact::folder());
  }

  Status add(archive_entry* entry) {
    const char* raw = archive_entry_pathname(entry);
    const std::string name = raw == nullptr ? "" : raw;
    QUAD_ASSIGN(const std::vector<std::string> parts, safe_parts(name));
    if (parts.empty()) {
      return {};  // "./": the folder itself keeps its own mode
    }
    QUAD_ASSIGN(const int parent, parent_of(parts, name));
    const std::string& last = parts.back();
    const std::string path = fmt::format("{}", fmt::join(parts, "/"));
    if (const char* target = archive_entry_hardlink(entry)) {
      return link(parent, last, path, target);
    }
    switch (archive_entry_filetype(entry)) {
      case AE_IFDIR:
        QUAD_TRY(expect(parent, last, path, Fact::folder()));
        return make_folder(parent, last, path, entry);
      case AE_IFREG:
        QUAD_TRY(expect(parent, last, path, fact_of(entry)));
        return replace(parent, last, path, [&] { return write_file(parent, path, entry); });
      case AE_IFLNK: {
        const char* target = archive_entry_symlink(entry);
        if (target == nullptr) {
          return error(ErrorCode::kInvalid,
                       fmt::format("The archive's link {} leads nowhere", name));
        }
        QUAD_TRY(expect(parent, last, path, Fact::link(target)));
        return replace(parent, last, path, [&]() -> Status {
          if (::symlinkat(target, parent, temporary_.c_str()) != 0) {
            return errno_error(fmt::format("Cannot make the link {}", at_place(path)), errno);
          }
          return {};
        });
      }
      default:
        return error(ErrorCode::kInvalid,
                     fmt::format("The archive holds {}, which is no file, folder or link", name));
    }
  }

  // Makes something under a name of its own and then gives it the name `last`, in one step: on a
  // shared file system another rank may bring the same to the same place at this moment.
  template <typename Make>
  Status replace(int parent, const std::string& last, const std::string& name, const Make& make) {
    Status made = make();
    if (made.ok() && ::renameat(parent, temporary_.c_str(), parent, last.c_str()) != 0) {
      made = errno_error(fmt::format("Cannot replace {}", at_place(name)), errno);
    }
    // Also after a rename: one between two links to the same file does nothing.
    ::unlinkat(parent, temporary_.c_str(), 0);
    return made;
  }

  Status make_folder(int parent, const std::string& last, const std::string& name,
                     archive_entry* entry) {
    if (::mkdirat(parent, last.c_str(), 0700) != 0) {
      struct stat info {};
      const int failure = errno;
      if (failure != EEXIST || ::fstatat(parent, last.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0 ||
          !S_ISDIR(info.st_mode)) {
        return errno_error(fmt::format("Cannot make the folder {}", at_place(name)), failure);
      }
      if (memory_ != nullptr) {
        allow_writing(
            UniqueFd(::openat(parent, last.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC))
                .get());
      }
    }
    // Its mode and time come last: a folder that may not be written to must be filled first.
    folders_.push_back({name, archive_entry_perm(entry) & 0777U, archive_entry_mtime(entry)});
    return {};
  }

  Status link(int parent, const std::string& last, const std::string& name, const char* target) {
    QUAD_ASSIGN(const std::vector<std::string> parts, safe_parts(target));
    if (parts.empty()) {
      return error(ErrorCode::kInvalid, fmt::format("The archive's link {} leads nowhere", name));
    }
    const UniqueFd keep(::fcntl(parent, F_DUPFD_CLOEXEC, 3));  // parent_of replaces the other
    QUAD_ASSIGN(const int from, parent_of(parts, target));
    if (memory_ != nullptr) {
      if (const auto fact = fact_at(from, parts.back()); fact.ok()) {
        QUAD_TRY(expect(keep.get(), last, name, *fact));
      }
    }
    return replace(keep.get(), last, name, [&]() -> Status {
      // The kernel says ENOENT of a file that is replaced between its look-up and the link: then
      // the new one is there.
      constexpr int kTries = 100;
      for (int tries = 0; tries < kTries; ++tries) {
        if (::linkat(from, parts.back().c_str(), keep.get(), temporary_.c_str(), 0) == 0) {
          return {};
        }
        if (errno != ENOENT) {
          break;
        }
      }
      return errno_error(fmt::format("Cannot link {} to {}", at_place(name), target), errno);
    });
  }

  Status write_file(int parent, const std::string& name, archive_entry* entry) {
    const mode_t mode = archive_entry_perm(entry) & 0777U;
    const UniqueFd fd(::openat(parent, temporary_.c_str(),
                               O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd) {
      return errno_error(fmt::format("Cannot create {}", at_place(name)), errno);
    }
    for (;;) {
      const void* bytes = nullptr;
      std::size_t size = 0;
      la_int64_t offset = 0;
      const int status = archive_read_data_block(reader_, &bytes, &size, &offset);
      if (status == ARCHIVE_EOF) {
        break;
      }
      if (status != ARCHIVE_OK && status != ARCHIVE_WARN) {
        return archive_failure();
      }
      result.bytes += size;
      QUAD_TRY(room_.take(size));
      std::size_t done = 0;
      while (done < size) {
        const ssize_t put = ::pwrite(fd.get(), static_cast<const char*>(bytes) + done, size - done,
                                     offset + static_cast<la_int64_t>(done));
        if (put < 0 && errno == EINTR) {
          continue;
        }
        if (put < 0) {
          return errno_error(fmt::format("Cannot write {}", at_place(name)), errno);
        }
        done += static_cast<std::size_t>(put);
      }
    }
    // A sparse end is no block.
    struct stat info {};
    if (archive_entry_size_is_set(entry) != 0 && ::fstat(fd.get(), &info) == 0 &&
        info.st_size < archive_entry_size(entry) &&
        ::ftruncate(fd.get(), archive_entry_size(entry)) != 0) {
      return errno_error(fmt::format("Cannot write {}", at_place(name)), errno);
    }
    ::fchmod(fd.get(), mode);
    if (archive_entry_mtime_is_set(entry) != 0) {
      const timespec times[2] = {{0, UTIME_NOW},
                                 {archive_entry_mtime(entry), archive_entry_mtime_nsec(entry)}};
      ::futimens(fd.get(), times);
    }
    if (durable_ && ::fsync(fd.get()) != 0) {
      return errno_error(fmt::format("Cannot write {}", at_place(name)), errno);
    }
    return {};
  }

  Status finish_folders() {
    for (auto folder = folders_.rbegin(); folder != folders_.rend(); ++folder) {
      QUAD_ASSIGN(const std::vector<std::string> parts, safe_parts(folder->name));
      QUAD_ASSIGN(const int parent, parent_of(parts, folder->name));
      const UniqueFd fd(
          ::openat(parent, parts.back().c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (fd) {
        const timespec times[2] = {{0, UTIME_NOW}, {folder->mtime, 0}};
        ::futimens(fd.get(), times);
        ::fchmod(fd.get(), folder->mode);
      }
    }
    return {};
  }

  struct Folder {
    std::string name;
    mode_t mode = 0755;
    time_t mtime = 0;
  };

  archive* reader_;
  Feed& feed_;
  Brought* const memory_;
  const bool durable_;
  const bool keeps_room_;
  const std::string temporary_;  // the name of what is made, until it is whole
  bool is_tree_ = true;
  Room room_;
  std::filesystem::path root_path_;
  UniqueFd root_;
  UniqueFd parent_;
  std::vector<std::string> parent_parts_;
  std::vector<Folder> folders_;
};

}  // namespace

Result<Unpacked> unpack_tree(const ByteSource& source, const std::filesystem::path& folder,
                             const UnpackOptions& options) {
  Feed feed{source, {}};
  QUAD_ASSIGN(const Reader reader, open_archive(feed));
  Unpacker unpacker(reader.get(), feed, options);
  QUAD_TRY(unpacker.into_folder(folder));
  return unpacker.result;
}

Result<Unpacked> unpack_file(const ByteSource& source, const std::filesystem::path& file,
                             const UnpackOptions& options) {
  Feed feed{source, {}};
  QUAD_ASSIGN(const Reader reader, open_archive(feed));
  Unpacker unpacker(reader.get(), feed, options);
  QUAD_TRY(unpacker.into_file(file));
  return unpacker.result;
}

}  // namespace quad::runner
