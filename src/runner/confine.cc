#include "runner/confine.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <string_view>

#include "base/file.h"
#include "base/text.h"
#include "runner/cgroup.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

// 0, or an errno. "0" is whoever writes it, whatever its number is elsewhere.
int join(const fs::path& group) {
  const UniqueFd fd(::open((group / "cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
  return fd && ::write(fd.get(), "0", 1) == 1 ? 0 : errno;
}

struct MountPoint {
  std::string path;
  std::string type;
};

// The kernel writes blanks and the like in paths as \ and three octal digits.
std::string unescaped(std::string_view text) {
  std::string path;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto digit = [&](std::size_t at) { return at < text.size() ? text[at] - '0' : 0; };
    if (text[i] == '\\' && i + 3 < text.size()) {
      path += static_cast<char>(digit(i + 1) * 64 + digit(i + 2) * 8 + digit(i + 3));
      i += 3;
    } else {
      path += text[i];
    }
  }
  return path;
}

std::vector<MountPoint> mount_points() {
  std::vector<MountPoint> points;
  const std::string text = read_file("/proc/self/mountinfo", 4U << 20U).value_or("");
  for (const std::string_view line : split(text, '\n')) {
    const auto words = split(line, ' ');
    const auto dash = std::find(words.begin(), words.end(), "-");
    if (words.size() > 4 && dash != words.end() && dash + 1 != words.end()) {
      points.push_back({unescaped(words[4]), std::string(*(dash + 1))});
    }
  }
  return points;
}

// This mount alone, as it is otherwise: a user namespace may take nothing else back.
void make_read_only(const std::string& path) {
  struct statvfs facts {};
  if (::statvfs(path.c_str(), &facts) != 0) {
    return;
  }
  constexpr std::array<std::pair<unsigned long, unsigned long>, 6> kFlags = {{
      {ST_NOSUID, MS_NOSUID},
      {ST_NODEV, MS_NODEV},
      {ST_NOEXEC, MS_NOEXEC},
      {ST_NOATIME, MS_NOATIME},
      {ST_NODIRATIME, MS_NODIRATIME},
      {ST_RELATIME, MS_RELATIME},
  }};
  unsigned long flags = MS_REMOUNT | MS_BIND | MS_RDONLY;
  for (const auto& [shown, flag] : kFlags) {
    flags |= (facts.f_flag & shown) != 0 ? flag : 0;
  }
  (void)::mount(nullptr, path.c_str(), nullptr, flags, nullptr);
}

// Where root sets what the kernel does, beyond control groups.
constexpr std::array<std::string_view, 9> kSettings = {"sysfs",      "debugfs",  "tracefs",
                                                       "securityfs", "configfs", "efivarfs",
                                                       "pstore",     "bpf",      "binfmt_misc"};

constexpr std::array<unsigned, 15> kKept = {
    CAP_CHOWN,   CAP_DAC_OVERRIDE, CAP_FOWNER,      CAP_FSETID,   CAP_KILL,
    CAP_SETGID,  CAP_SETUID,       CAP_SETPCAP,     CAP_SETFCAP,  CAP_NET_BIND_SERVICE,
    CAP_NET_RAW, CAP_SYS_CHROOT,   CAP_AUDIT_WRITE, CAP_IPC_LOCK, CAP_SYS_PTRACE,
};

}  // namespace

int join_groups(const std::vector<fs::path>& groups) {
  int failure = 0;
  for (const fs::path& group : groups) {
    const int refused = join(group / kGroupOfProcesses);
    failure = failure != 0 ? failure : refused;
  }
  return failure;
}

void hide_groups_above() {
  (void)::unshare(CLONE_NEWCGROUP);
}

void protect_kernel_files(const std::vector<fs::path>& groups, bool all) {
  for (const MountPoint& point : mount_points()) {
    if (point.type == "cgroup" || point.type == "cgroup2") {
      make_read_only(point.path);
      for (const fs::path& group : groups) {
        if (group.string().starts_with(point.path + "/")) {
          (void)::mount(group.c_str(), point.path.c_str(), nullptr, MS_BIND, nullptr);
        }
      }
    } else if (all &&
               std::find(kSettings.begin(), kSettings.end(), point.type) != kSettings.end()) {
      make_read_only(point.path);
    }
  }
  if (!all) {
    // Without root's rights nothing there can be written to; and where something lies over parts of
    // /proc, the kernel lets no container of the job's own have a /proc.
    return;
  }
  for (const char* path : {"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"}) {
    if (::mount(path, path, nullptr, MS_BIND | MS_REC, nullptr) == 0) {
      make_read_only(path);
    }
  }
}

int give_up_capabilities() {
  std::array<__user_cap_data_struct, 2> kept{};
  for (const unsigned capability : kKept) {
    kept[capability / 32].permitted |= 1U << (capability % 32);
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> now{};
  if (::syscall(SYS_capget, &header, now.data()) != 0) {
    return errno;
  }
  constexpr unsigned kMost = 64;
  for (unsigned capability = 0; capability < kMost; ++capability) {
    if ((kept[capability / 32].permitted & (1U << (capability % 32))) == 0 &&
        ::prctl(PR_CAPBSET_READ, capability) == 1 &&
        ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) {
      return errno;
    }
  }
  // Its own too: as another process of root's could else make it act.
  for (std::size_t i = 0; i < kept.size(); ++i) {
    kept[i].permitted &= now[i].permitted;
    kept[i].effective = kept[i].permitted;
  }
  (void)::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  return ::syscall(SYS_capset, &header, kept.data()) == 0 ? 0 : errno;
}

void limit_processes_of_user(std::uint64_t processes) {
  rlimit limit{};
  if (processes == 0 || ::getrlimit(RLIMIT_NPROC, &limit) != 0) {
    return;
  }
  limit.rlim_max = std::min<rlim_t>(limit.rlim_max, processes);
  limit.rlim_cur = std::min(limit.rlim_cur, limit.rlim_max);
  (void)::setrlimit(RLIMIT_NPROC, &limit);
}

}  // namespace quad::runner
