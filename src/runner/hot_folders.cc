#include "runner/hot_folders.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/text.h"

namespace quad::runner {

namespace {

constexpr mode_t kPassedThrough = 0711;  // nobody but root lists the jobs, or makes a folder there
constexpr mode_t kOwnersOnly = 0700;
constexpr mode_t kOpenToAll = 0777;

using Owner = std::optional<HotFolders::Owner>;

Error cannot(std::string_view what, const std::string& path, int why) {
  return errno_error(fmt::format("Cannot {} {} in the hot tier", what, path), why);
}

UniqueFd open_folder(int parent, const std::string& name) {
  return UniqueFd(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

/// As somebody else for a moment. Root of a client is nobody on an NFS server that squashes it.
class Become {
 public:
  explicit Become(const HotFolders::Owner& owner)
      : became_(::setegid(owner.gid) == 0 && ::seteuid(owner.uid) == 0) {}
  ~Become() {
    (void)!::seteuid(::getuid());
    (void)!::setegid(::getgid());
  }
  Become(const Become&) = delete;
  Become& operator=(const Become&) = delete;
  [[nodiscard]] bool became() const { return became_; }

 private:
  bool became_;
};

/// A new folder below `parent`, which is the owner's when others can see it. 0, EEXIST, or why not.
int make_owned(int parent, const std::string& name, const Owner& owner) {
  if (!owner) {
    // Whatever the umask is; between the two it is root's alone.
    return ::mkdirat(parent, name.c_str(), kOwnersOnly) == 0 &&
                   ::fchmodat(parent, name.c_str(), kOpenToAll, 0) == 0
               ? 0
               : errno;
  }
  if (::mkdirat(parent, name.c_str(), kOwnersOnly) == 0) {
    if (::fchownat(parent, name.c_str(), owner->uid, owner->gid, AT_SYMLINK_NOFOLLOW) == 0) {
      return 0;
    }
    const int why = errno;
    ::unlinkat(parent, name.c_str(), AT_REMOVEDIR);
    if (why != EPERM) {
      return why;
    }
  } else if (errno != EACCES && errno != EPERM) {
    return errno;
  }
  const Become other(*owner);
  return other.became() && ::mkdirat(parent, name.c_str(), kOwnersOnly) == 0 ? 0 : errno;
}

/// The fence is written over in place, so it must be the owner's too.
void give_fence(int folder, const HotFolders::Owner& owner) {
  const UniqueFd fence(::openat(folder, "fence", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat facts {};
  if (fence && ::fstat(fence.get(), &facts) == 0 && S_ISREG(facts.st_mode) && facts.st_nlink == 1) {
    (void)!::fchown(fence.get(), owner.uid, owner.gid);
  }
}

Status make_job_folder(int tier, const HotFolders& folders) {
  const std::vector<std::string_view> steps = split(folders.job, '/');
  UniqueFd above(::fcntl(tier, F_DUPFD_CLOEXEC, 0));
  for (std::size_t i = 0; i + 1 < steps.size(); ++i) {
    const std::string name(steps[i]);
    if (::mkdirat(above.get(), name.c_str(), kPassedThrough) == 0) {
      (void)!::fchmodat(above.get(), name.c_str(), kPassedThrough, 0);  // whatever the umask was
    } else if (errno != EEXIST) {
      return cannot("make", folders.job, errno);
    }
    UniqueFd next = open_folder(above.get(), name);
    if (!next) {
      return cannot("open", folders.job, errno);
    }
    above = std::move(next);
  }
  const std::string name(steps.back());
  const int failure = make_owned(above.get(), name, folders.owner);
  if (failure == 0) {
    return {};
  }
  if (failure != EEXIST) {
    return cannot("make", folders.job, failure);
  }
  struct stat facts {};
  if (::fstatat(above.get(), name.c_str(), &facts, AT_SYMLINK_NOFOLLOW) != 0 ||
      !S_ISDIR(facts.st_mode)) {
    return cannot("use", folders.job, ENOTDIR);
  }
  if (!folders.owner || facts.st_uid == folders.owner->uid) {
    return {};
  }
  const UniqueFd folder = open_folder(above.get(), name);
  if (!folder || ::fchown(folder.get(), folders.owner->uid, folders.owner->gid) != 0) {
    return error(ErrorCode::kDenied,
                 fmt::format("{} in the hot tier belongs to uid {}, but the job runs as uid {}; "
                             "change its owner",
                             folders.job, facts.st_uid, folders.owner->uid));
  }
  give_fence(folder.get(), *folders.owner);
  return {};
}

Status make_home(int tier, const HotFolders& folders) {
  const int failure = make_owned(tier, folders.home, folders.owner);
  return failure == 0 || failure == EEXIST ? Status() : cannot("make", folders.home, failure);
}

}  // namespace

std::optional<HotFolders::Owner> read_owner(std::string_view text) {
  const std::vector<std::string_view> parts = split(text, ':');
  if (parts.size() != 2) {
    return std::nullopt;
  }
  const auto uid = parse_number<uid_t>(parts[0]);
  const auto gid = parse_number<gid_t>(parts[1]);
  return uid && gid ? std::optional(HotFolders::Owner{*uid, *gid}) : std::nullopt;
}

Status make_hot_folders(const HotFolders& folders) {
  const UniqueFd tier(::open(folders.tier.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!tier) {
    return errno_error(fmt::format("Cannot open the hot tier at {}", folders.tier.string()), errno);
  }
  QUAD_TRY(make_job_folder(tier.get(), folders));
  return make_home(tier.get(), folders);
}

}  // namespace quad::runner
