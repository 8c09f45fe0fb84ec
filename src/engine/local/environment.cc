#include "engine/local/environment.h"

#include <fmt/format.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "base/text.h"

namespace quad::engine {
namespace {

constexpr std::string_view kUsualPath =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

constexpr std::array<std::string_view, 12> kListed = {
    "LANG",
    "LANGUAGE",
    "TZ",
    // Which GPUs there are: what hides some from the server hides them from its jobs.
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "CUDA_MPS_PIPE_DIRECTORY",
    "CUDA_MPS_LOG_DIRECTORY",
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
};

// Where the runner of a build with a sanitizer leaves its findings is told like this.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

std::string_view name_of(std::string_view entry) {
  return entry.substr(0, entry.find('='));
}

std::optional<std::string_view> value_of(const std::vector<std::string>& own,
                                         std::string_view name) {
  for (const std::string_view entry : own) {
    if (entry.size() > name.size() && entry[name.size()] == '=' && name_of(entry) == name) {
      return entry.substr(name.size() + 1);
    }
  }
  return std::nullopt;
}

bool contains(const std::vector<std::string>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string_view without_slashes(std::string_view folder) {
  while (folder.size() > 1 && folder.ends_with('/')) {
    folder.remove_suffix(1);
  }
  return folder;
}

// The folders of programs of what is active in this environment: one virtual environment, and
// Conda's, which it numbers when they are stacked.
std::vector<std::string> active_folders(const std::vector<std::string>& own) {
  std::vector<std::string> folders;
  for (const std::string_view entry : own) {
    const std::string_view name = name_of(entry);
    if (name == "VIRTUAL_ENV" || name == "CONDA_PREFIX" || name.starts_with("CONDA_PREFIX_")) {
      const std::string_view root =
          without_slashes(entry.substr(std::min(name.size() + 1, entry.size())));
      for (const char* folder : {"bin", "sbin"}) {
        folders.push_back(fmt::format("{}/{}", root, folder));
      }
    }
  }
  return folders;
}

// A job runs as this account, or one with fewer rights, which must be able to write there too.
bool may_hold_temporary_files(const std::string& folder) {
  struct stat facts {};
  return folder.starts_with('/') && ::stat(folder.c_str(), &facts) == 0 && S_ISDIR(facts.st_mode) &&
         ((facts.st_mode & S_IWOTH) != 0 ||
          (::geteuid() != 0 && ::access(folder.c_str(), W_OK | X_OK) == 0));
}

std::string account_name() {
  const passwd* account = ::getpwuid(::geteuid());  // NOLINT(concurrency-mt-unsafe): at the start
  return account == nullptr ? std::string() : account->pw_name;
}

}  // namespace

std::string path_of_jobs(const std::vector<std::string>& own) {
  const std::vector<std::string> active = active_folders(own);
  std::vector<std::string> folders;
  const std::string_view path = value_of(own, "PATH").value_or("");
  for (const std::string_view folder : split(path, ':')) {
    if (folder.starts_with('/') && !contains(active, without_slashes(folder)) &&
        !contains(folders, folder)) {
      folders.emplace_back(folder);
    }
  }
  if (folders.empty()) {
    return std::string(kUsualPath);
  }
  // With the base environment's programs goes the conda that lies among them; this folder holds
  // nothing else.
  const std::string_view conda = value_of(own, "CONDA_EXE").value_or("");
  if (const std::size_t bin = conda.rfind("/bin/"); conda.starts_with('/') && bin != conda.npos) {
    const std::string command = fmt::format("{}/condabin", conda.substr(0, bin));
    if (!contains(folders, command)) {
      folders.push_back(command);
    }
  }
  return fmt::format("{}", fmt::join(folders, ":"));
}

std::vector<std::string> environment_of_jobs(const std::vector<std::string>& own,
                                             const std::vector<std::string>& named) {
  std::vector<std::string> environment;
  for (const std::string& entry : own) {
    const std::string_view name = name_of(entry);
    const bool listed = std::find(kListed.begin(), kListed.end(), name) != kListed.end() ||
                        name.starts_with("LC_") || (kSanitized && name.ends_with("SAN_OPTIONS")) ||
                        (name == "TMPDIR" && may_hold_temporary_files(entry.substr(7)));
    if (name.size() < entry.size() && (listed || contains(named, name))) {
      environment.push_back(entry);
    }
  }
  const auto add_unless_named = [&](std::string_view name, const std::string& value) {
    if (!contains(named, name) && !value.empty()) {
      environment.push_back(fmt::format("{}={}", name, value));
    }
  };
  add_unless_named("PATH", path_of_jobs(own));
  const std::string account = account_name();
  add_unless_named("USER", account);
  add_unless_named("LOGNAME", account);
  // GPUs are counted as they were detected, whatever the server's own programs prefer.
  std::erase_if(environment,
                [](std::string_view entry) { return name_of(entry) == "CUDA_DEVICE_ORDER"; });
  environment.emplace_back("CUDA_DEVICE_ORDER=PCI_BUS_ID");
  return environment;
}

std::vector<std::string> missing_variables(const std::vector<std::string>& own,
                                           const std::vector<std::string>& named) {
  std::vector<std::string> missing;
  for (const std::string& name : named) {
    if (!value_of(own, name)) {
      missing.push_back(name);
    }
  }
  return missing;
}

}  // namespace quad::engine
