#include "config/file.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cstdlib>

#include "base/file.h"

namespace quad::config {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kMostBytes = 1U << 20U;

Loaded unreadable(std::string message) {
  Loaded out;
  out.errors.push_back({.message = std::move(message)});
  return out;
}

}  // namespace

Source find_source(const std::string& named, const fs::path& data_dir) {
  if (!named.empty()) {
    return {named, true};
  }
  if (const char* variable = std::getenv("QUAD_CONFIG"); variable != nullptr && *variable != '\0') {
    return {variable, true};
  }
  return {data_dir / "config.yaml", false};
}

bool exists(const Source& source) {
  struct stat info {};
  return ::stat(source.path.c_str(), &info) == 0;
}

Loaded load(const Source& source, const std::vector<Override>& overrides) {
  const std::string name = source.path.string();
  struct stat info {};
  if (::stat(name.c_str(), &info) != 0) {
    if (errno == ENOENT && !source.required) {
      return read_config("", overrides);
    }
    return unreadable(
        errno_error(fmt::format("Cannot read the configuration {}", name), errno).message);
  }
  if (!S_ISREG(info.st_mode)) {
    return unreadable(fmt::format("{} is no plain file; name the configuration's file", name));
  }
  if ((info.st_mode & S_IWOTH) != 0) {
    return unreadable(
        fmt::format("Everybody may write to {}, and so decide what the server does: "
                    "chmod o-w it",
                    name));
  }
  const auto text = read_file(source.path, kMostBytes);
  if (!text.ok()) {
    return unreadable(text.error().message);
  }
  std::error_code failure;
  return read_config(*text, overrides, fs::absolute(source.path, failure).parent_path().string());
}

}  // namespace quad::config
