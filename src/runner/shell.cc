#include "runner/shell.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"

namespace quad::runner {

namespace {

constexpr std::string_view kUsualPlaces = "/bin:/usr/bin:/usr/local/bin";

std::string find(std::string_view name, std::string_view folders) {
  for (const std::string_view folder : split(folders, ':')) {
    if (!folder.starts_with('/')) {
      continue;
    }
    std::string path = std::string(folder) + "/" + std::string(name);
    struct stat facts {};
    if (::stat(path.c_str(), &facts) == 0 && S_ISREG(facts.st_mode) &&
        ::access(path.c_str(), X_OK) == 0) {
      return path;
    }
  }
  return {};
}

}  // namespace

std::optional<Shell> find_shell(std::string_view path) {
  for (const bool bash : {true, false}) {
    for (const std::string_view folders : {kUsualPlaces, path}) {
      if (std::string found = find(bash ? "bash" : "sh", folders); !found.empty()) {
        return Shell{std::move(found), bash};
      }
    }
  }
  return std::nullopt;
}

}  // namespace quad::runner
