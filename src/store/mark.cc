#include "store/mark.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <vector>

#include "base/fnv.h"
#include "base/text.h"

namespace quad::store {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBytes = 192;
constexpr std::size_t kLifeDigits = 32;

/// Always of the same length, so that it can be written in place.
std::string render(const Mark& mark) {
  std::string text = fmt::format(
      "quad-records 1 life {} generation {:010} job {:019} revision {:019} inode {:020} ",
      mark.life, mark.generation, mark.job, mark.revision, mark.inode);
  text += fmt::format("{:016x}", fnv1a(text));
  text.resize(kBytes - 1, ' ');
  return text + "\n";
}

std::optional<Mark> parse(std::string_view text) {
  const std::vector<std::string_view> words = split(text, ' ');
  if (text.size() != kBytes || words.size() < 13 || words[3].size() != kLifeDigits) {
    return std::nullopt;
  }
  Mark mark;
  mark.life = words[3];
  mark.generation = parse_number(words[5]).value_or(-1);
  mark.job = parse_number(words[7]).value_or(-1);
  mark.revision = parse_number(words[9]).value_or(-1);
  mark.inode = parse_number<std::uint64_t>(words[11]).value_or(0);
  // Only what would be written exactly so is a mark.
  return mark.generation >= 0 && mark.job >= 0 && mark.revision >= 0 && render(mark) == text
             ? std::optional(mark)
             : std::nullopt;
}

}  // namespace

fs::path mark_path(const fs::path& folder) {
  return folder / "records.mark";
}

Result<std::optional<Mark>> read_mark(const fs::path& folder) {
  const auto text = read_regular_file(mark_path(folder), 4096);
  if (!text.ok() && text.error().code == ErrorCode::kNotFound) {
    return std::optional<Mark>();
  }
  std::optional<Mark> mark = text.ok() ? parse(*text) : std::nullopt;
  if (!mark) {
    return error(ErrorCode::kInvalid, "records.mark is damaged");
  }
  return mark;
}

bool is_original(const fs::path& folder, const Mark& mark) {
  struct stat info {};
  return ::stat(mark_path(folder).c_str(), &info) == 0 && info.st_ino == mark.inode;
}

Result<MarkFile> MarkFile::open(const fs::path& folder, Mark mark) {
  MarkFile opened;
  opened.file_.reset(::open(mark_path(folder).c_str(), O_RDWR | O_CLOEXEC));
  if (!opened.file_) {
    return errno_error(fmt::format("Cannot open {}", mark_path(folder).string()), errno);
  }
  opened.mark_ = std::move(mark);
  return opened;
}

Result<MarkFile> MarkFile::create(const fs::path& folder, Mark mark) {
  const fs::path path = mark_path(folder);
  const fs::path temporary = path.string() + ".tmp";
  MarkFile made;
  made.file_.reset(::open(temporary.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  struct stat info {};
  if (!made.file_ || ::fstat(made.file_.get(), &info) != 0) {
    return errno_error(fmt::format("Cannot make {}", temporary.string()), errno);
  }
  mark.inode = info.st_ino;
  QUAD_TRY(write_all(made.file_.get(), render(mark)));
  if (::fsync(made.file_.get()) != 0 || ::rename(temporary.c_str(), path.c_str()) != 0) {
    return errno_error(fmt::format("Cannot write {}", path.string()), errno);
  }
  QUAD_TRY(sync_folder(folder));
  made.mark_ = std::move(mark);
  return made;
}

void MarkFile::advance(std::int64_t job, std::int64_t revision) {
  mark_.job = std::max(mark_.job, job);
  mark_.revision = std::max(mark_.revision, revision);
  const std::string text = render(mark_);
  (void)!::pwrite(file_.get(), text.data(), text.size(), 0);
}

void MarkFile::sync() const {
  if (file_) {
    (void)::fdatasync(file_.get());
  }
}

}  // namespace quad::store
