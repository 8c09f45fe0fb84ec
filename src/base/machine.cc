#include "base/machine.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/file.h"
#include "base/text.h"

namespace quad {

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

Result<std::string> read_boot_id() {
  const auto text = read_file("/proc/sys/kernel/random/boot_id", 256);
  if (text.ok()) {
    return std::string(trim(*text));
  }
  if (text.error().code == ErrorCode::kNotFound) {
    return std::string("unknown");
  }
  return text.error();
}

std::uint64_t allow_open_files(std::uint64_t count) {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) {
    return 0;
  }
  const rlim_t before = files.rlim_cur;
  files.rlim_cur = std::min<rlim_t>(files.rlim_max, std::max<rlim_t>(before, count));
  return ::setrlimit(RLIMIT_NOFILE, &files) == 0 ? files.rlim_cur : before;
}

void forbid_core_dumps() {
  ::prctl(PR_SET_DUMPABLE, 0);
}

}  // namespace quad
