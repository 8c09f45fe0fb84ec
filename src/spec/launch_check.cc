// What only matters when a task is really started: names, mount paths and volumes.

#include <algorithm>

#include <fmt/format.h>

#include "base/git_address.h"
#include "base/text.h"
#include "spec/letters.h"
#include "spec/number.h"
#include "spec/readers.h"

namespace quad::spec {

namespace {

/// Letters and digits, with one or two of . _ - between them.
bool is_task_name(std::string_view name) {
  if (name.empty() || !is_alphanumeric(name.front()) || !is_alphanumeric(name.back())) {
    return false;
  }
  int run = 0;
  for (const char c : name) {
    run = is_alphanumeric(c) ? 0 : run + 1;
    if (run > 2 || (!is_alphanumeric(c) && c != '.' && c != '_' && c != '-')) {
      return false;
    }
  }
  return true;
}

class LaunchCheck {
 public:
  explicit LaunchCheck(const Task& task) : task_(task) {}

  std::vector<Diagnostic> run() {
    if (task_.name && !is_task_name(*task_.name)) {
      fail("name",
           fmt::format("the name {} cannot be launched: it must begin and end with a letter "
                       "or digit, with at most two of . _ - in a row between them",
                       quoted(*task_.name)));
    }
    if (const auto* git = std::get_if<GitWorkdir>(&task_.workdir)) {
      check_address("workdir.url", git->url);
    }
    for (const FileMount& mount : task_.file_mounts) {
      if (mount.kind == FileMount::Kind::kGit) {
        check_address("file_mounts." + mount.destination.substr(0, 200), mount.source);
      }
      check_mount(mount);
    }
    for (const Volume& volume : task_.volumes) {
      check_volume(volume);
    }
    return std::move(found_);
  }

 private:
  static std::string quoted(std::string_view text) { return shown(text); }

  void fail(std::string key, std::string message) {
    const Mark mark = task_.marks.find(key);
    found_.push_back({std::move(message), std::move(key), {}, mark.line, mark.column});
  }

  void check_address(std::string key, const std::string& url) {
    if (!is_git_address(url)) {
      fail(std::move(key), fmt::format("git fetches from https, http, ssh, git and file addresses "
                                       "and from HOST:PATH, not from {}",
                                       quoted(url)));
    }
  }

  void check_mount(const FileMount& mount) {
    if (mount.storage) {
      return;
    }
    const std::string key = "file_mounts." + mount.destination.substr(0, 200);
    if (mount.destination.ends_with('/') || mount.source.ends_with('/')) {
      fail(key, fmt::format("a file mount's paths must not end with /: {} from {}",
                            quoted(mount.destination), quoted(mount.source)));
    }
    if (is_cloud_url(mount.destination)) {
      fail(key, fmt::format("the destination {} of a file mount must be a path, not a URL",
                            quoted(mount.destination)));
    }
    const auto parts = split(mount.destination, '/');
    if (std::find(parts.begin(), parts.end(), "..") != parts.end()) {
      fail(key, fmt::format("the destination {} of a file mount must not hold ..; write where it "
                            "shall lie from the workdir, from ~ or from / on",
                            quoted(mount.destination)));
    }
    if (mount.destination == "~/sky_workdir" && !std::holds_alternative<NoWorkdir>(task_.workdir)) {
      fail(key, "~/sky_workdir is where the workdir goes; mount elsewhere or leave out workdir");
    }
  }

  void check_volume(const Volume& volume) {
    const std::string key = "volumes." + volume.destination.substr(0, 200);
    if (!volume.destination.starts_with('/') && !volume.destination.starts_with('~')) {
      fail(key, fmt::format("a volume's path must begin with / or ~, not be {}",
                            quoted(volume.destination)));
    }
    if (!volume.name && !volume.size && !volume.host_path) {
      fail(key,
           "a volume needs name (an existing one) or size (one that lives as long as the job)");
    }
    if (volume.size && !is_size_text(*volume.size)) {
      fail(key, fmt::format("a volume's size must be such as 100GB, not {}", quoted(*volume.size)));
    }
    if (volume.sub_path) {
      const auto parts = split(*volume.sub_path, '/');
      if (volume.sub_path->empty() || volume.sub_path->starts_with('/') ||
          std::find(parts.begin(), parts.end(), "..") != parts.end()) {
        fail(key, fmt::format("a volume's sub_path must be a relative path without .., not {}",
                              quoted(*volume.sub_path)));
      }
      if (volume.size) {
        fail(key, "sub_path is for an existing volume, not for one with size");
      }
    }
    const std::string mode = volume.access_mode.value_or("");
    if (task_.num_nodes > 1 && (mode == "ReadWriteOnce" || mode == "ReadWriteOncePod")) {
      fail(key, fmt::format("access_mode {} lets one node mount the volume, and the task has {}",
                            mode, task_.num_nodes));
    }
  }

  const Task& task_;
  std::vector<Diagnostic> found_;
};

}  // namespace

std::vector<Diagnostic> launch_errors(const Task& task) {
  return LaunchCheck(task).run();
}

}  // namespace quad::spec
