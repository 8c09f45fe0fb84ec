#include "engine/local/local_check.h"

#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "base/file.h"
#include "base/text.h"
#include "engine/local/detect.h"

namespace quad::engine {

namespace fs = std::filesystem;

namespace {

constexpr double kGib = 1024.0 * 1024 * 1024;

/// Whether a group for a memory limit can be made: below this process's own group, or beside it.
bool may_limit_memory() {
  const auto groups = read_file("/proc/self/cgroup", 1U << 16U);
  if (!groups.ok()) {
    return false;
  }
  for (const std::string_view line : split(*groups, '\n')) {
    const auto parts = split(line, ':');
    if (parts.size() < 3) {
      continue;
    }
    const bool second = parts[0] == "0" && parts[1].empty();
    const fs::path root = second ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    if (!second && parts[1].find("memory") == std::string_view::npos) {
      continue;
    }
    const fs::path own = root / fs::path(std::string(parts[2])).relative_path();
    for (const fs::path& folder : {own, own.parent_path(), root}) {
      if (::access(folder.c_str(), W_OK) == 0 &&
          (!second || fs::exists(folder / "cgroup.subtree_control"))) {
        return true;
      }
    }
  }
  return false;
}

CheckLine hot_line(const fs::path& hot) {
  struct statvfs room {};
  fs::path there = hot;
  while (!fs::exists(there) && there.has_relative_path()) {
    there = there.parent_path();
  }
  if (::access(there.c_str(), W_OK) != 0) {
    return {"hot tier", CheckLevel::kMissing,
            fmt::format("{} cannot be written to", there.string()),
            "Let the server's user write there, or name another hot_tier.host_path."};
  }
  if (::statvfs(there.c_str(), &room) != 0) {
    return {"hot tier", CheckLevel::kUnknown,
            fmt::format("how much room {} has is not known", there.string()), ""};
  }
  const double free = static_cast<double>(room.f_bavail) * static_cast<double>(room.f_frsize);
  const double all = static_cast<double>(room.f_blocks) * static_cast<double>(room.f_frsize);
  const bool little = free < all / 20 || free < kGib;
  return {
      "hot tier", little ? CheckLevel::kAdvice : CheckLevel::kOk,
      fmt::format("{} has {:.0f} GiB free of {:.0f}", hot.string(), free / kGib, all / kGib),
      little ? "Make room: a job whose checkpoints cannot be written has none to go on from." : ""};
}

}  // namespace

CheckReport check_local(const LocalOptions& options) {
  CheckReport report{"local", "this machine", {}};
  const Machine machine = detect_machine();
  auto& lines = report.lines;
  if (options.nodes > 0) {
    report.what = "this machine, divided into pretend nodes";
    lines.push_back({"nodes", CheckLevel::kOk,
                     fmt::format("{} pretend nodes, for trying things out", options.nodes), ""});
  } else {
    lines.push_back({"nodes", CheckLevel::kOk,
                     fmt::format("this machine: {:.0f} CPUs, {:.0f} GiB",
                                 static_cast<double>(machine.cpu_milli) / 1000,
                                 static_cast<double>(machine.memory_bytes) / kGib),
                     ""});
    if (!machine.gpus.empty()) {
      lines.push_back({"GPUs", CheckLevel::kOk,
                       fmt::format("{} {} ({} told)", machine.gpus.size(), machine.gpus[0].model,
                                   machine.gpu_source),
                       ""});
    } else {
      lines.push_back({"GPUs", CheckLevel::kAdvice, "none that works",
                       "Where there are some, install their driver; nvidia-smi must work."});
    }
    for (const std::string& remark : machine.remarks) {
      lines.push_back({"GPUs", CheckLevel::kAdvice, remark, ""});
    }
  }
  lines.push_back(may_limit_memory()
                      ? CheckLine{"limits", CheckLevel::kOk, "memory limits are enforced", ""}
                      : CheckLine{"limits", CheckLevel::kAdvice,
                                  "memory limits of jobs are not enforced",
                                  "Run the server as root, or give its user a control group "
                                  "(docs/operating.md)."});
  lines.push_back(hot_line(options.hot));
  return report;
}

}  // namespace quad::engine
