#include "runner/copy.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fts.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <system_error>
#include <vector>

#include "base/data_dir.h"
#include "base/file.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBuffer = 256U << 10U;

struct Writer {
  int fd = -1;
  int failure = 0;  // errno of a write
};

la_ssize_t write_pieces(archive* /*writer*/, void* data, const void* bytes, std::size_t size) {
  auto* writer = static_cast<Writer*>(data);
  const auto* from = static_cast<const char*>(bytes);
  for (std::size_t done = 0; done < size;) {
    const ssize_t put = ::write(writer->fd, from + done, size - done);
    if (put < 0 && errno == EINTR) {
      continue;
    }
    if (put < 0) {
      writer->failure = errno;
      return -1;
    }
    done += static_cast<std::size_t>(put);
  }
  return static_cast<la_ssize_t>(size);
}

class Packer {
 public:
  explicit Packer(int fd) : archive_(archive_write_new(), &archive_write_free) {
    output_.fd = fd;
    archive_write_set_format_pax(archive_.get());  // with fractions of seconds
    // Names are bytes to Linux: they go as they are.
    archive_write_set_options(archive_.get(), "hdrcharset=BINARY");
    archive_write_set_bytes_per_block(archive_.get(), 64 * 1024);
    archive_write_set_bytes_in_last_block(archive_.get(), 1);
  }

  Status open() {
    return archive_write_open2(archive_.get(), &output_, nullptr, write_pieces, nullptr, nullptr) ==
                   ARCHIVE_OK
               ? Status()
               : failed();
  }

  Status add(const char* path, const std::string& name, const struct stat& info) {
    const std::unique_ptr<archive_entry, decltype(&archive_entry_free)> entry(archive_entry_new(),
                                                                              &archive_entry_free);
    archive_entry_set_pathname(entry.get(), name.c_str());
    archive_entry_set_filetype(entry.get(), info.st_mode & S_IFMT);
    archive_entry_set_perm(entry.get(), info.st_mode & 0777U);
    archive_entry_set_mtime(entry.get(), info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
    UniqueFd file;
    if (S_ISREG(info.st_mode)) {
      file.reset(::open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
      struct stat now {};
      if (!file || ::fstat(file.get(), &now) != 0) {
        return errno_error(fmt::format("Cannot read {}", path), errno);
      }
      archive_entry_set_size(entry.get(), now.st_size);
      if (archive_write_header(archive_.get(), entry.get()) != ARCHIVE_OK) {
        return failed();
      }
      broken_ = true;
      QUAD_TRY(copy(file.get(), path, now.st_size));
      broken_ = false;
      return {};
    }
    if (S_ISLNK(info.st_mode)) {
      std::error_code failure;
      archive_entry_set_symlink(entry.get(), fs::read_symlink(path, failure).c_str());
    }
    return archive_write_header(archive_.get(), entry.get()) == ARCHIVE_OK ? Status() : failed();
  }

  /// Whether nothing more can be added: an entry is half written, or nobody takes it.
  [[nodiscard]] bool broken() const { return broken_; }

  Status close() { return archive_write_close(archive_.get()) == ARCHIVE_OK ? Status() : failed(); }

 private:
  Status failed() {
    broken_ = true;
    if (output_.failure == EPIPE) {
      return error(ErrorCode::kUnavailable, "Nobody takes the copy any more");
    }
    if (output_.failure != 0) {
      return errno_error("The copy cannot be sent", output_.failure);
    }
    return error(ErrorCode::kIo,
                 fmt::format("Cannot pack: {}", archive_error_string(archive_.get())));
  }

  Status copy(int fd, const char* path, std::int64_t left) {
    while (left > 0) {
      const ssize_t got =
          ::read(fd, buffer_.data(),
                 std::min<std::size_t>(buffer_.size(), static_cast<std::size_t>(left)));
      if (got < 0 && errno == EINTR) {
        continue;
      }
      if (got < 0) {
        return errno_error(fmt::format("Cannot read {}", path), errno);
      }
      if (got == 0) {
        return error(ErrorCode::kIo,
                     fmt::format("{} became shorter while it was being copied; try again", path));
      }
      if (archive_write_data(archive_.get(), buffer_.data(), static_cast<std::size_t>(got)) !=
          got) {
        return failed();
      }
      left -= got;
    }
    return {};
  }

  std::unique_ptr<archive, decltype(&archive_write_free)> archive_;
  Writer output_;
  bool broken_ = false;
  std::vector<char> buffer_ = std::vector<char>(kBuffer);
};

Status pack_folder(Packer& packer, const fs::path& folder, std::vector<std::string>* left_out) {
  // With the slash it is the folder that a link leads to.
  std::string top = folder.string() + "/";
  char* paths[] = {top.data(), nullptr};
  const std::unique_ptr<FTS, decltype(&fts_close)> tree(
      fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, nullptr), &fts_close);
  if (tree == nullptr) {
    return errno_error(fmt::format("Cannot list {}", folder.string()), errno);
  }
  while (FTSENT* one = fts_read(tree.get())) {
    if (one->fts_level == FTS_ROOTLEVEL && one->fts_info == FTS_D) {
      continue;
    }
    if (one->fts_info == FTS_D && is_data_directory(one->fts_path)) {
      if (left_out != nullptr) {
        left_out->emplace_back(one->fts_path);
      }
      ::fts_set(tree.get(), one, FTS_SKIP);
      continue;
    }
    switch (one->fts_info) {
      case FTS_D:
      case FTS_F:
      case FTS_SL:
      case FTS_SLNONE: {
        std::string_view name(one->fts_path, one->fts_pathlen);
        name.remove_prefix(top.size());
        while (name.starts_with('/')) {
          name.remove_prefix(1);
        }
        const Status added = packer.add(one->fts_path, std::string(name), *one->fts_statp);
        struct stat there {};
        if (!added.ok() && (::lstat(one->fts_path, &there) == 0 || packer.broken())) {
          return added;  // else it was deleted meanwhile, as a job does with its old checkpoints
        }
        break;
      }
      case FTS_DNR:
      case FTS_ERR:
      case FTS_NS:
        if (one->fts_errno != ENOENT) {
          return errno_error(fmt::format("Cannot read {}", one->fts_path), one->fts_errno);
        }
        break;
      default:
        break;
    }
    errno = 0;
  }
  return errno == 0 ? Status() : errno_error(fmt::format("Cannot list {}", folder.string()), errno);
}

}  // namespace

json::object to_json(const CopySource& source) {
  return {{"is_file", source.is_file}, {"mode", source.mode}, {"name", source.name}};
}

CopySource copy_source(const json::object& message) {
  return {get_bool(message, "is_file", true),
          static_cast<unsigned>(get_int(message, "mode", 0755)) & 0777U,
          std::string(get_string(message, "name"))};
}

Result<CopySource> look_at_source(const fs::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? error(ErrorCode::kNotFound,
                                   fmt::format("There is no file or folder {}", path.string()))
                           : errno_error(fmt::format("Cannot read {}", path.string()), errno);
  }
  if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) {
    return error(ErrorCode::kInvalid,
                 fmt::format("{} is neither a file nor a folder", path.string()));
  }
  std::error_code failure;
  if (const auto data = data_directory_around(fs::canonical(path, failure))) {
    return error(ErrorCode::kInvalid,
                 fmt::format("{} is {}a Quad server's data directory, with its keys and records, "
                             "which are not copied",
                             path.string(), is_data_directory(path) ? "" : "in "));
  }
  return CopySource{S_ISREG(info.st_mode), info.st_mode & 0777U, ""};
}

std::string name_of_path(std::string_view path) {
  while (path.size() > 1 && path.ends_with('/')) {
    path.remove_suffix(1);
  }
  const std::string_view name = path.substr(path.rfind('/') + 1);
  return name == "." || name == ".." || name == "~" ? std::string() : std::string(name);
}

Status send_copy(const fs::path& path, int fd, std::vector<std::string>* left_out) {
  QUAD_ASSIGN(const CopySource source, look_at_source(path));
  Packer packer(fd);
  QUAD_TRY(packer.open());
  if (source.is_file) {
    std::error_code failure;
    const fs::path file = fs::canonical(path, failure);
    struct stat info {};
    if (failure || ::lstat(file.c_str(), &info) != 0) {
      return error(ErrorCode::kIo, fmt::format("Cannot read {}", path.string()));
    }
    QUAD_TRY(packer.add(file.c_str(), "file", info));
  } else {
    QUAD_TRY(pack_folder(packer, path, left_out));
  }
  return packer.close();
}

Status receive_copy(const ByteSource& bytes, const fs::path& place, bool as_folder,
                    const CopySource& source) {
  if (source.name.find('/') != std::string::npos || source.name == "." || source.name == "..") {
    return error(ErrorCode::kInvalid, fmt::format("'{}' is no name of a file", source.name));
  }
  struct stat info {};
  const bool is_folder = ::stat(place.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
  if (as_folder && !is_folder && source.is_file) {
    return error(ErrorCode::kNotFound, fmt::format("There is no folder {}", place.string()));
  }
  fs::path to = is_folder ? place / source.name : place;
  if (!to.has_filename()) {
    to = to.parent_path();  // "folder/" is as good as "folder"
  }
  if (source.is_file) {
    if (::stat(to.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
      return error(ErrorCode::kInvalid, fmt::format("{} is a folder, and a file was to be "
                                                    "copied there",
                                                    to.string()));
    }
    auto unpacked = unpack_file(bytes, to, {.durable = true});
    return unpacked.ok() ? Status() : Status(unpacked.error());
  }
  const bool made = ::mkdir(to.c_str(), 0700) == 0;
  if (!made && errno != EEXIST) {
    return errno_error(fmt::format("Cannot make the folder {}", to.string()), errno);
  }
  if (::stat(to.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return error(ErrorCode::kInvalid,
                 fmt::format("{} is a file, and a folder was to be copied there", to.string()));
  }
  auto unpacked = unpack_tree(bytes, to);
  if (made) {
    ::chmod(to.c_str(), source.mode);
  }
  return unpacked.ok() ? Status() : Status(unpacked.error());
}

ByteSource read_pieces(int fd) {
  const auto buffer = std::make_shared<std::vector<char>>(kBuffer);
  return [fd, buffer]() -> Result<std::string_view> {
    for (;;) {
      const ssize_t got = ::read(fd, buffer->data(), buffer->size());
      if (got >= 0) {
        return std::string_view(buffer->data(), static_cast<std::size_t>(got));
      }
      if (errno != EINTR) {
        return errno_error("The copy cannot be received", errno);
      }
    }
  };
}

}  // namespace quad::runner
