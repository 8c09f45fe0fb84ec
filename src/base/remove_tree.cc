#include "base/remove_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include "base/file.h"
#include "base/text.h"

namespace quad {
namespace {

struct Closer {
  void operator()(DIR* listing) const { ::closedir(listing); }
};
using Listing = std::unique_ptr<DIR, Closer>;

class Remover {
 public:
  explicit Remover(const std::atomic<bool>* stop) : stop_(stop) {}

  /// False if it is still there; failure() then says why.
  bool remove(int folder, const std::string& name) {
    switch (remove_if_simple(folder, name.c_str())) {
      case Left::kNothing:
        return true;
      case Left::kStuck:
        return note(name, errno);
      case Left::kFolder:
        break;
    }
    const Listing top = open_folder(folder, name.c_str());
    if (top == nullptr) {
      return note(name, errno);
    }
    // What is below comes up to the top, and is met there in a later pass.
    for (bool changes = true; changes && !stopped();) {
      changes = false;
      first_.clear();
      each(top.get(), [&](const char* entry) { changes |= empty(::dirfd(top.get()), entry); });
    }
    return ::unlinkat(folder, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT ||
           note(name, errno);
  }

  [[nodiscard]] bool stopped() const { return stop_ != nullptr && stop_->load(); }

  [[nodiscard]] Error failure() const {
    if (stopped()) {
      return error(ErrorCode::kUnavailable, "Removing it was broken off");
    }
    return errno_error(fmt::format("Cannot remove '{}'", first_), first_errno_);
  }

 private:
  enum class Left { kNothing, kFolder, kStuck };

  // Enough for a file, a link, an empty folder, and what is not there any more. Of what is stuck
  // errno says why.
  static Left remove_if_simple(int folder, const char* name) {
    if (::unlinkat(folder, name, 0) == 0 || errno == ENOENT) {
      return Left::kNothing;
    }
    if (errno != EISDIR) {
      return Left::kStuck;
    }
    return ::unlinkat(folder, name, AT_REMOVEDIR) == 0 || errno == ENOENT ? Left::kNothing
                                                                          : Left::kFolder;
  }

  // Opened so that it can be emptied, whatever its owner had forbidden.
  static Listing open_folder(int parent, const char* name) {
    constexpr int kFlags = O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    UniqueFd fd(::openat(parent, name, O_RDONLY | kFlags));
    if (!fd && errno == EACCES) {
      const UniqueFd place(::openat(parent, name, O_PATH | kFlags));
      if (place && ::chmod(fmt::format("/proc/self/fd/{}", place.get()).c_str(), S_IRWXU) == 0) {
        fd.reset(::openat(parent, name, O_RDONLY | kFlags));
      }
    }
    struct stat info {};
    if (fd && ::fstat(fd.get(), &info) == 0 && (info.st_mode & S_IRWXU) != S_IRWXU) {
      ::fchmod(fd.get(), S_IRWXU);
    }
    Listing listing(fd ? ::fdopendir(fd.get()) : nullptr);
    if (listing != nullptr) {
      fd.release();
    }
    return listing;
  }

  template <typename Action>
  void each(DIR* listing, const Action& action) {
    ::rewinddir(listing);
    while (!stopped()) {
      const dirent* entry = ::readdir(listing);
      if (entry == nullptr) {
        return;
      }
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") {
        action(entry->d_name);
      }
    }
  }

  // Removes an entry of the top folder, of which the folders inside come up to the top. True if
  // that changed anything.
  bool empty(int top, const char* name) {
    const Left left = remove_if_simple(top, name);
    if (left != Left::kFolder) {
      return left == Left::kNothing || note(name, errno);
    }
    const Listing folder = open_folder(top, name);
    if (folder == nullptr) {
      return note(name, errno);
    }
    const int fd = ::dirfd(folder.get());
    bool changed = false;
    each(folder.get(), [&](const char* entry) {
      const Left inside = remove_if_simple(fd, entry);
      changed |= inside == Left::kNothing || (inside == Left::kFolder && move_up(fd, entry, top)) ||
                 note(entry, errno);
    });
    return ::unlinkat(top, name, AT_REMOVEDIR) == 0 || changed || note(name, errno);
  }

  bool move_up(int folder, const char* name, int top) {
    const std::string fresh = fmt::format("{}-{}", prefix_, moved_++);
    if (::renameat(folder, name, top, fresh.c_str()) == 0) {
      return true;
    }
    if (errno != EACCES && errno != EPERM) {
      return false;
    }
    // A folder that may not be written to cannot get another parent.
    return open_folder(folder, name) != nullptr &&
           ::renameat(folder, name, top, fresh.c_str()) == 0;
  }

  bool note(std::string_view name, int failure) {
    if (first_.empty()) {
      first_ = name;
      first_errno_ = failure;
    }
    return false;
  }

  const std::atomic<bool>* stop_;
  const std::string prefix_ = ".quad-gone-" + random_hex(8);
  std::uint64_t moved_ = 0;
  std::string first_;  // that could not be removed, in this pass
  int first_errno_ = 0;
};

}  // namespace

Status remove_tree_at(int folder, const std::string& name, const std::atomic<bool>* stop) {
  Remover remover(stop);
  return remover.remove(folder, name) ? Status() : Status(remover.failure());
}

Status remove_tree(const std::filesystem::path& path, const std::atomic<bool>* stop) {
  const std::filesystem::path parent = path.has_parent_path() ? path.parent_path() : ".";
  const UniqueFd folder(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) {
    return errno == ENOENT ? Status()
                           : errno_error(fmt::format("Cannot open {}", parent.string()), errno);
  }
  return remove_tree_at(folder.get(), path.filename().string(), stop);
}

}  // namespace quad
