// runner/parents.h
//
// The folders that hold entries below a place, as descriptors: no link below the place is followed,
// so what is done with an entry is done there and nowhere else. Blocks for a few look-ups.

#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "base/file.h"
#include "base/text.h"

namespace quad::runner {

// What holds an entry, opened anew only where it is not what held the one before.
/// Whatever its mode was, the owner of the folder that `folder` is open on may write to it
/// afterwards.
inline void allow_writing(int folder) {
  struct stat info {};
  if (::fstat(folder, &info) == 0 && (info.st_mode & S_IRWXU) != S_IRWXU) {
    ::chmod(fmt::format("/proc/self/fd/{}", folder).c_str(), (info.st_mode & 0777U) | S_IRWXU);
  }
}

class Parents {
 public:
  explicit Parents(std::filesystem::path place) : place_(std::move(place)) {}

  /// -1 if there is none, or a link is in the way.
  int of(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    const std::string parent = slash == std::string::npos ? "" : path.substr(0, slash);
    if (path.empty()) {
      top_.reset(::open(place_.parent_path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
      return top_.get();
    }
    if (!fd_ || parent != path_) {
      path_ = parent;
      fd_.reset(::open(place_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
      for (const std::string_view part : split(parent, '/')) {
        if (fd_ && !part.empty()) {
          fd_.reset(::openat(fd_.get(), std::string(part).c_str(),
                             O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        }
      }
    }
    return fd_.get();
  }

  [[nodiscard]] std::string name_of(const std::string& path) const {
    return path.empty() ? place_.filename().string() : path.substr(path.rfind('/') + 1);
  }

 private:
  const std::filesystem::path place_;
  std::string path_;
  UniqueFd fd_;
  UniqueFd top_;
};

}  // namespace quad::runner
