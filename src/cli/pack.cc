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
#include <vector>

#include "base/file.h"
#include "base/text.h"
#include "cli/ignore.h"

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

class Packer {
 public:
  Packer(archive* writer, bool in_folder) : writer_(writer), in_folder_(in_folder) {}

  [[nodiscard]] std::uint64_t files() const { return files_; }
  [[nodiscard]] const std::vector<std::string>& left_out() const { return left_out_; }

  Status add(const fs::path& path, const std::string& name) {
    struct stat info {};
    if (::lstat(path.c_str(), &info) != 0) {
      return errno == ENOENT
                 ? Status()
                 : Status(errno_error(fmt::format("Cannot read {}", path.string()), errno));
    }
    if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode) && !S_ISLNK(info.st_mode)) {
      left_out_.push_back(name);
      return {};
    }
    const std::unique_ptr<archive_entry, decltype(&archive_entry_free)> entry(archive_entry_new(),
                                                                              &archive_entry_free);
    archive_entry_set_pathname(entry.get(), name.c_str());
    archive_entry_set_filetype(entry.get(), info.st_mode & S_IFMT);
    archive_entry_set_perm(entry.get(), info.st_mode & 0777U);
    archive_entry_set_mtime(entry.get(), info.st_mtim.tv_sec, 0);
    UniqueFd file;
    if (S_ISREG(info.st_mode)) {
      file.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
      if (!file) {
        Error failure = errno_error(fmt::format("Cannot read {}", path.string()), errno);
        if (in_folder_) {
          failure.message += "; let it be read, or name it in .skyignore to leave it behind";
        }
        return failure;
      }
      archive_entry_set_size(entry.get(), info.st_size);
    } else if (S_ISLNK(info.st_mode)) {
      std::error_code failure;
      archive_entry_set_symlink(entry.get(), fs::read_symlink(path, failure).c_str());
    }
    if (archive_write_header(writer_, entry.get()) != ARCHIVE_OK) {
      return failed();
    }
    ++files_;
    return S_ISREG(info.st_mode) ? copy(file.get(), path, info.st_size) : Status();
  }

  Status failed() {
    return error(ErrorCode::kIo, fmt::format("Cannot pack: {}", archive_error_string(writer_)));
  }

 private:
  Status copy(int fd, const fs::path& path, std::int64_t size) {
    std::int64_t left = size;
    while (left > 0) {
      const ssize_t got =
          ::read(fd, buffer_.data(),
                 std::min<std::size_t>(buffer_.size(), static_cast<std::size_t>(left)));
      if (got < 0 && errno == EINTR) {
        continue;
      }
      if (got <= 0) {
        return error(ErrorCode::kIo,
                     fmt::format("{} changed while it was being packed; try again", path.string()));
      }
      if (archive_write_data(writer_, buffer_.data(), static_cast<std::size_t>(got)) != got) {
        return failed();
      }
      left -= got;
    }
    return {};
  }

  archive* writer_;
  bool in_folder_;
  std::uint64_t files_ = 0;
  std::vector<std::string> left_out_;
  std::vector<char> buffer_ = std::vector<char>(256 * 1024);
};

Status add_folder(Packer& packer, IgnoreRules& rules, bool use_gitignore, const fs::path& top,
                  const std::string& folder) {
  const fs::path here = folder.empty() ? top : top / folder;
  if (use_gitignore) {
    if (auto text = read_file(here / ".gitignore", 1U << 20U); text.ok()) {
      rules.add(*text, folder);
    }
  }
  std::vector<std::pair<std::string, bool>> names;
  std::error_code failure;
  for (fs::directory_iterator it(here, failure), end; !failure && it != end;
       it.increment(failure)) {
    names.emplace_back(it->path().filename().string(),
                       it->is_directory(failure) && !it->is_symlink(failure));
    failure.clear();
  }
  if (failure) {
    return error(ErrorCode::kIo,
                 fmt::format("Cannot list {}: {}", here.string(), failure.message()));
  }
  std::sort(names.begin(), names.end());
  for (const auto& [name, is_folder] : names) {
    const std::string path = folder.empty() ? name : folder + "/" + name;
    if (rules.ignored(path, is_folder)) {
      continue;
    }
    QUAD_TRY(packer.add(top / path, path));
    if (is_folder) {
      QUAD_TRY(add_folder(packer, rules, use_gitignore, top, path));
    }
  }
  return {};
}

}  // namespace

Result<Blob> pack(const fs::path& source) {
  struct stat info {};
  if (::stat(source.c_str(), &info) != 0) {
    return error(ErrorCode::kNotFound, fmt::format("There is no '{}' here", source.string()));
  }
  Blob blob;
  blob.is_file = !S_ISDIR(info.st_mode);
  std::string name = (fs::temp_directory_path() / "quad-pack-XXXXXX").string();
  Output output;
  output.fd.reset(::mkostemp(name.data(), O_CLOEXEC));
  if (!output.fd) {
    return errno_error(fmt::format("Cannot make a temporary file {}", name), errno);
  }
  blob.file = name;
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
  Packer packer(writer.get(), !blob.is_file);
  const auto run = [&]() -> Status {
    if (archive_write_open2(writer.get(), &output, nullptr, write_output, nullptr, nullptr) !=
        ARCHIVE_OK) {
      return packer.failed();
    }
    if (blob.is_file) {
      QUAD_TRY(packer.add(fs::canonical(source), source.filename().string()));
    } else {
      IgnoreRules rules;
      const auto skyignore = read_file(source / ".skyignore", 1U << 20U);
      if (skyignore.ok()) {
        rules.add(*skyignore, "");
      }
      QUAD_TRY(add_folder(packer, rules, !skyignore.ok(), source, ""));
    }
    return archive_write_close(writer.get()) == ARCHIVE_OK ? Status() : packer.failed();
  };
  if (auto packed = run(); !packed.ok()) {
    ::unlink(name.c_str());
    return packed.error();
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_DigestFinal_ex(output.digest.get(), digest, &size);
  blob.hash = to_hex({reinterpret_cast<const char*>(digest), size});
  blob.bytes = output.bytes;
  blob.files = packer.files();
  blob.left_out = packer.left_out();
  return blob;
}

}  // namespace quad::cli
