#include "cli/pack.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "base/text.h"

// libarchive's tar writer calls this one function of its object file that knows every format by
// name, which would draw in xar, and with it libxml2 and ICU: more start-up time than all of `quad
// status`. Only files, folders and links are written here, so it is never called.
// NOLINTNEXTLINE(bugprone-reserved-identifier,readability-identifier-naming): libarchive's name
extern "C" void __archive_write_entry_filetype_unsupported(archive* writer,
                                                           archive_entry* /*entry*/,
                                                           const char* format) {
  archive_set_error(writer, EINVAL, "%s cannot hold this kind of file", format);
}

namespace quad::cli {

namespace {

namespace fs = std::filesystem;

/// The archive's bytes on their way to the temporary file, and their hash.
struct Output {
  UniqueFd fd;
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> digest{EVP_MD_CTX_new(),
                                                                 &EVP_MD_CTX_free};
  std::uint64_t bytes = 0;
};

la_ssize_t write_output(archive* writer, void* context, const void* data, size_t size) {
  auto* output = static_cast<Output*>(context);
  if (auto written = write_all(output->fd.get(), {static_cast<const char*>(data), size});
      !written.ok()) {
    archive_set_error(writer, EIO, "%s", written.error().message.c_str());
    return -1;
  }
  EVP_DigestUpdate(output->digest.get(), data, size);
  output->bytes += size;
  return static_cast<la_ssize_t>(size);
}

/// Whether its first line is "#!…" and ends as Windows has it.
bool is_windows_script(std::string_view beginning) {
  const std::size_t end = beginning.find('\n');
  return beginning.starts_with("#!") && end != std::string_view::npos && beginning[end - 1] == '\r';
}

/// Whether somebody may want to start it: only then is it looked into.
bool may_be_started(const Found& found) {
  return S_ISREG(found.info.st_mode) && found.info.st_size > 0 &&
         ((found.info.st_mode & 0111U) != 0 || found.name.ends_with(".sh"));
}

std::string beginning_of(const fs::path& path) {
  char buffer[256];  // the longest first line that the kernel reads
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  const ssize_t got = file ? ::read(file.get(), buffer, sizeof buffer) : 0;
  return {buffer, got > 0 ? static_cast<std::size_t>(got) : 0};
}

class Packer {
 public:
  Packer(archive* writer, const Progress& progress) : writer_(writer), progress_(progress) {}

  [[nodiscard]] Sample& shrunk() { return shrunk_; }

  /// kNotFound: it has gone, and nothing of it is in the archive.
  Status add(const Found& found) {
    const std::unique_ptr<archive_entry, decltype(&archive_entry_free)> entry(archive_entry_new(),
                                                                              &archive_entry_free);
    archive_entry_set_pathname(entry.get(), found.name.c_str());
    struct stat info = found.info;
    UniqueFd file;
    if (S_ISREG(info.st_mode)) {
      QUAD_ASSIGN(file, open(found.path, info));
    }
    archive_entry_set_filetype(entry.get(), info.st_mode & S_IFMT);
    archive_entry_set_perm(entry.get(), info.st_mode & 0777U);
    archive_entry_set_mtime(entry.get(), info.st_mtim.tv_sec, 0);
    if (S_ISREG(info.st_mode)) {
      archive_entry_set_size(entry.get(), info.st_size);
    } else if (S_ISLNK(info.st_mode)) {
      archive_entry_set_symlink(entry.get(), found.target.c_str());
    }
    if (archive_write_header(writer_, entry.get()) != ARCHIVE_OK) {
      return failed();
    }
    return file ? copy(file.get(), found, info.st_size) : Status();
  }

  Status failed() {
    return error(ErrorCode::kIo, fmt::format("Cannot pack: {}", archive_error_string(writer_)));
  }

 private:
  /// `info`: as the open file is, which may be another one by now than the one that was listed.
  static Result<UniqueFd> open(const fs::path& path, struct stat& info) {
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (!file && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == ENXIO)) {
      return error(ErrorCode::kNotFound,
                   fmt::format("There is no file {} any more", path.string()));
    }
    if (!file || ::fstat(file.get(), &info) != 0) {
      Error failure = errno_error(fmt::format("Cannot read {}", path.string()), errno);
      failure.message += "; let it be read, or name it in .skyignore to leave it behind";
      return failure;
    }
    if (!S_ISREG(info.st_mode)) {
      return error(ErrorCode::kNotFound,
                   fmt::format("There is no file {} any more", path.string()));
    }
    return file;
  }

  /// The entry's size is written by now: of a file that grows its end stays behind, one that
  /// shrinks is filled up.
  Status copy(int fd, const Found& found, std::int64_t size) {
    std::int64_t left = size;
    bool ended = false;
    while (left > 0) {
      const auto most = std::min<std::size_t>(buffer_.size(), static_cast<std::size_t>(left));
      ssize_t got = ended ? 0 : ::read(fd, buffer_.data(), most);
      if (got < 0 && errno == EINTR) {
        continue;
      }
      if (got < 0) {
        return errno_error(fmt::format("Cannot read {}", found.path.string()), errno);
      }
      if (got == 0) {
        if (!std::exchange(ended, true)) {
          shrunk_.add(found.name);
          std::fill(buffer_.begin(), buffer_.end(), '\0');
        }
        got = static_cast<ssize_t>(most);
      }
      if (archive_write_data(writer_, buffer_.data(), static_cast<std::size_t>(got)) != got) {
        return failed();
      }
      left -= got;
      read_ += static_cast<std::uint64_t>(got);
      if (progress_) {
        progress_(read_);
      }
    }
    return {};
  }

  archive* writer_;
  const Progress& progress_;
  std::uint64_t read_ = 0;
  Sample shrunk_;
  std::vector<char> buffer_ = std::vector<char>(256 * 1024);
};

/// Gives `take` all of a source, be it a folder or one file.
Result<Contents> each_of(const fs::path& source, bool is_file, const Take& take) {
  if (!is_file) {
    return walk(source, take);
  }
  std::error_code failure;
  const fs::path place = fs::canonical(source, failure);
  const fs::path& file = failure ? source : place;
  struct stat info {};
  if (::stat(file.c_str(), &info) != 0) {
    return error(ErrorCode::kNotFound, fmt::format("There is no '{}' here", source.string()));
  }
  QUAD_TRY(check_not_quads_own(file));
  const std::string name = source.filename().string();
  QUAD_TRY(take({name, file, info, ""}));
  Contents contents;
  contents.files = 1;
  contents.bytes = static_cast<std::uint64_t>(info.st_size);
  return contents;
}

Result<bool> is_one_file(const fs::path& source) {
  struct stat info {};
  if (::stat(source.c_str(), &info) != 0) {
    return error(ErrorCode::kNotFound, fmt::format("There is no '{}' here", source.string()));
  }
  return !S_ISDIR(info.st_mode);
}

/// A file that goes when it is closed.
Result<UniqueFd> temporary_file() {
  std::error_code failure;
  const fs::path folder = fs::temp_directory_path(failure);
  std::string name = (failure ? fs::path("/tmp") : folder) / "quad-pack-XXXXXX";
  UniqueFd file(::mkostemp(name.data(), O_CLOEXEC));
  if (!file) {
    return errno_error(fmt::format("Cannot make a temporary file {}", name), errno);
  }
  ::unlink(name.c_str());
  return file;
}

}  // namespace

Result<Survey> survey(const fs::path& source) {
  Survey survey;
  QUAD_ASSIGN(survey.is_file, is_one_file(source));
  const Take look = [&](const Found& found) -> Status {
    if (may_be_started(found) && is_windows_script(beginning_of(found.path))) {
      survey.windows_scripts.add(found.name);
    }
    return {};
  };
  QUAD_ASSIGN(survey.contents, each_of(source, survey.is_file, look));
  return survey;
}

Result<Blob> pack(const fs::path& source, const Progress& progress) {
  Blob blob;
  QUAD_ASSIGN(blob.is_file, is_one_file(source));
  Output output;
  QUAD_ASSIGN(output.fd, temporary_file());
  EVP_DigestInit_ex(output.digest.get(), EVP_sha256(), nullptr);
  const std::unique_ptr<archive, decltype(&archive_write_free)> writer(archive_write_new(),
                                                                       &archive_write_free);
  archive_write_set_format_pax_restricted(writer.get());
  // Names are bytes to Linux: they go as they are, whatever the locale, and also those that are no
  // UTF-8.
  archive_write_set_options(writer.get(), "hdrcharset=BINARY");
  archive_write_add_filter_zstd(writer.get());
  archive_write_set_bytes_per_block(writer.get(), 64 * 1024);
  archive_write_set_bytes_in_last_block(writer.get(), 1);
  Packer packer(writer.get(), progress);
  if (archive_write_open2(writer.get(), &output, nullptr, write_output, nullptr, nullptr) !=
      ARCHIVE_OK) {
    return packer.failed().error();
  }
  const Take add = [&](const Found& found) { return packer.add(found); };
  QUAD_ASSIGN(blob.contents, each_of(source, blob.is_file, add));
  if (archive_write_close(writer.get()) != ARCHIVE_OK ||
      ::lseek(output.fd.get(), 0, SEEK_SET) != 0) {
    return packer.failed().error();
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_DigestFinal_ex(output.digest.get(), digest, &size);
  blob.hash = to_hex({reinterpret_cast<const char*>(digest), size});
  blob.bytes = output.bytes;
  blob.file = std::move(output.fd);
  blob.shrunk = std::move(packer.shrunk());
  return blob;
}

}  // namespace quad::cli
