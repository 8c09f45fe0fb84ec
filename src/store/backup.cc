#include "store/backup.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "base/file.h"
#include "base/text.h"
#include "store/connection.h"

namespace quad::store {

namespace {

namespace fs = std::filesystem;

Status copy_pages(const fs::path& from, const fs::path& to) {
  QUAD_ASSIGN(Connection source, Connection::open(from, Connection::Mode::kRead));
  QUAD_ASSIGN(const Connection target, Connection::open(to, Connection::Mode::kWrite));
  // A read transaction held all the while: otherwise each commit in between would make the copy
  // start over, and under a busy writer it would never end.
  QUAD_TRY(source.run("BEGIN"));
  QUAD_TRY(source.integer("SELECT count(*) FROM sqlite_schema"));
  sqlite3_backup* copy = sqlite3_backup_init(target.get(), "main", source.get(), "main");
  if (copy == nullptr) {
    return sqlite_error(target.get(), "the backup");
  }
  constexpr int kPagesAtOnce = 4096;
  int code = SQLITE_OK;
  while (code == SQLITE_OK) {
    code = sqlite3_backup_step(copy, kPagesAtOnce);
  }
  sqlite3_backup_finish(copy);
  if (code != SQLITE_DONE) {
    return sqlite_error(target.get(), "the backup");
  }
  return {};
}

/// kInvalid when it is the place that is wrong, and not the disk.
Status make_empty(const fs::path& temporary) {
  const UniqueFd made(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (made) {
    return {};
  }
  const int failure = errno;
  Error why = errno_error(
      fmt::format("no file can be made in {}", temporary.parent_path().string()), failure);
  switch (failure) {
    case EACCES:
    case EPERM:
    case EROFS:
    case ENOENT:
    case ENOTDIR:
    case ENAMETOOLONG:
    case ELOOP:
      why.code = ErrorCode::kInvalid;
      break;
    default:
      break;
  }
  return why;
}

Status write_copy(const fs::path& from, const fs::path& temporary, const fs::path& to) {
  QUAD_TRY(make_empty(temporary));
  QUAD_TRY(copy_pages(from, temporary));
  const UniqueFd fd(::open(temporary.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0 || ::rename(temporary.c_str(), to.c_str()) != 0) {
    return errno_error(fmt::format("Cannot write {}", to.string()), errno);
  }
  return sync_folder(to.parent_path());
}

}  // namespace

Status copy_database(const fs::path& from, const fs::path& to) {
  std::error_code ignored;
  if (fs::equivalent(from, to, ignored)) {
    return error(
        ErrorCode::kInvalid,
        fmt::format("{} is the database itself; name another file for its backup", to.string()));
  }
  const fs::path temporary = fmt::format("{}.tmp-{}", to.string(), random_hex(6));
  Status status = write_copy(from, temporary, to);
  if (!status.ok()) {
    ::unlink(temporary.c_str());
    ::unlink((temporary.string() + "-journal").c_str());
    return error(status.error().code,
                 fmt::format("The backup to {} failed: {}", to.string(), status.error().message));
  }
  return status;
}

}  // namespace quad::store
