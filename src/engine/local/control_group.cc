#include "engine/local/control_group.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <vector>

#include "base/file.h"

namespace quad::engine {

namespace fs = std::filesystem;

bool remove_control_group(const fs::path& group) {
  if (::rmdir(group.c_str()) == 0 || errno != EBUSY) {
    return true;
  }
  const UniqueFd folder(::open(group.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct statfs system {};
  if (!folder || ::fstatfs(folder.get(), &system) != 0) {
    return errno == ENOENT;
  }
  if (system.f_type == CGROUP2_SUPER_MAGIC) {
    const UniqueFd kill(::openat(folder.get(), "cgroup.kill", O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
    (void)!::write(kill.get(), "1", 1);  // older kernels have no such file
  } else if (system.f_type != CGROUP_SUPER_MAGIC) {
    return true;
  }
  std::vector<fs::path> below;
  std::error_code failure;
  for (fs::recursive_directory_iterator it(group, failure), end; !failure && it != end;
       it.increment(failure)) {
    std::error_code unknown;
    if (it->symlink_status(unknown).type() == fs::file_type::directory) {
      below.push_back(it->path());
    }
  }
  // A group comes before those below it, and goes after them.
  for (auto it = below.rbegin(); it != below.rend(); ++it) {
    ::rmdir(it->c_str());
  }
  return ::rmdir(group.c_str()) == 0 || errno == ENOENT;
}

}  // namespace quad::engine
