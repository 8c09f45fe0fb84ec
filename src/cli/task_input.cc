#include "cli/task_input.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>

#include "base/file.h"
#include "base/text.h"
#include "cli/output.h"
#include "cli/terminal.h"

namespace quad::cli {

namespace {

constexpr std::size_t kLargestTask = 4U << 20U;  ///< what spec takes
constexpr std::size_t kLargestEnvFile = 1U << 20U;

std::string_view kind_of(mode_t mode) {
  return S_ISDIR(mode)    ? "a folder"
         : S_ISFIFO(mode) ? "a named pipe"
         : S_ISSOCK(mode) ? "a socket"
                          : "a device";
}

/// For messages.
std::string shortened(const std::string& path) {
  constexpr std::size_t kMost = 200;
  return printable(path.size() <= kMost ? path : path.substr(0, kMost) + "…");
}

/// All that `fd` gives, or kExhausted past the bound.
Result<std::string> read_all(int fd, const std::string& path, std::size_t most) {
  std::string content;
  char buffer[65536];
  for (;;) {
    const ssize_t got = ::read(fd, buffer, sizeof buffer);
    if (got < 0 && errno != EINTR) {
      return error(ErrorCode::kInvalid,
                   fmt::format("{} cannot be read: {}", path, std::strerror(errno)));
    }
    if (got == 0) {
      return content;
    }
    content.append(buffer, static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    if (content.size() > most) {
      return error(ErrorCode::kInvalid,
                   fmt::format("{} is larger than the {} MiB allowed", path, most >> 20U));
    }
  }
}

Result<std::string> read_plain_file(const std::string& name, std::size_t most,
                                    std::string_view what) {
  const std::string path = shortened(name);
  // Without O_NONBLOCK the opening of a pipe waits for its writer.
  const UniqueFd fd(::open(name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) {
    const int failure = errno;
    const auto near = failure == ENOENT ? near_file(name) : std::nullopt;
    return error(ErrorCode::kInvalid,
                 near ? fmt::format("There is no file {}; did you mean {}?", path, printable(*near))
                 : failure == ENOENT
                     ? fmt::format("There is no file {}", path)
                     : fmt::format("{} cannot be read: {}", path, std::strerror(failure)));
  }
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return error(ErrorCode::kInvalid,
                 fmt::format("{} is {}, not a file; name {}{}", path, kind_of(info.st_mode), what,
                             S_ISDIR(info.st_mode) ? "" : ", or - for standard input"));
  }
  if (static_cast<std::uint64_t>(info.st_size) > most) {
    return error(ErrorCode::kInvalid,
                 fmt::format("{} has {:.1f} MB; {} may have {} MiB at most", path,
                             static_cast<double>(info.st_size) / 1e6, what, most >> 20U));
  }
  return read_all(fd.get(), path, most);
}

std::optional<std::string> variable(std::string_view name) {
  const char* value = std::getenv(std::string(name).c_str());
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

/// `secret`: in the wrong shape, the word may be the secret itself, so no error repeats it.
/// `number`: which of these flags it is, from 1.
Result<spec::NamedValue> read_pair(const std::string& text, std::string_view flag, bool secret,
                                   std::size_t number) {
  const std::size_t equals = text.find('=');
  std::string name = text.substr(0, equals);
  if (secret && (name.empty() || (equals == std::string::npos && !variable(name)))) {
    return error(ErrorCode::kInvalid,
                 fmt::format("{} number {} has no name, or this shell no variable of that name; "
                             "write {} NAME=VALUE",
                             flag, number, flag));
  }
  if (name.empty()) {
    return error(ErrorCode::kInvalid,
                 fmt::format("{} '{}' has no name; write it as NAME=VALUE", flag, text));
  }
  if (equals != std::string::npos) {
    return spec::NamedValue{std::move(name), text.substr(equals + 1)};
  }
  auto value = variable(name);
  if (!value) {
    return error(
        ErrorCode::kInvalid,
        fmt::format("{0} {1}: this shell has no variable {1}; write {0} {1}=VALUE", flag, name));
  }
  return spec::NamedValue{std::move(name), std::move(*value)};
}

}  // namespace

Result<std::string> read_task_text(const std::string& path) {
  return path == "-" ? read_all(STDIN_FILENO, "Standard input", kLargestTask)
                     : read_plain_file(path, kLargestTask, "a task file");
}

std::optional<std::string> near_file(const std::string& path) {
  constexpr std::size_t kMostNames = 5'000;
  const std::size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : path.substr(0, slash + 1);
  const std::string name = path.substr(folder.size());
  std::vector<std::string> names;
  std::error_code failure;
  for (std::filesystem::directory_iterator it(folder.empty() ? "." : folder, failure), end;
       !failure && it != end && names.size() < kMostNames; it.increment(failure)) {
    std::error_code ignored;
    if (!it->is_directory(ignored)) {
      names.push_back(it->path().filename().string());
    }
  }
  const auto near = nearest(name, {names.begin(), names.end()});
  return near && *near != name ? std::optional(folder + std::string(*near)) : std::nullopt;
}

Result<std::vector<spec::NamedValue>> read_pairs(const std::vector<std::string>& files,
                                                 std::string_view file_flag,
                                                 const std::vector<std::string>& given,
                                                 std::string_view flag) {
  const bool secret = flag == "--secret";
  std::vector<spec::NamedValue> all;
  for (const std::string& file : files) {
    if (secret && file.find('=') != std::string::npos && ::access(file.c_str(), F_OK) != 0) {
      return error(
          ErrorCode::kInvalid,
          fmt::format("{} takes a dotenv file; a pair is written {} NAME=VALUE", file_flag, flag));
    }
    QUAD_ASSIGN(const std::string text, read_plain_file(file, kLargestEnvFile, "a dotenv file"));
    auto pairs = spec::parse_env_file(text, variable);
    if (!pairs.ok()) {
      return error(pairs.error().code,
                   fmt::format("{} {}: {}", file_flag, file, pairs.error().message));
    }
    all.insert(all.end(), pairs->begin(), pairs->end());
  }
  for (std::size_t i = 0; i < given.size(); ++i) {
    QUAD_ASSIGN(auto pair, read_pair(given[i], flag, secret, i + 1));
    all.push_back(std::move(pair));
  }
  return all;
}

std::string line_of(const spec::Diagnostic& problem, std::string_view word,
                    const std::string& file) {
  std::string line = file.empty() ? "quad" : file;
  if (problem.line > 0) {
    line += fmt::format(":{}:{}", problem.line, problem.column);
  }
  line += fmt::format(": {}: ", word);
  if (!problem.key.empty()) {
    line += problem.key + ": ";
  }
  line += problem.message;
  if (!problem.hint.empty()) {
    line += " (" + problem.hint + ")";
  }
  return line;
}

void print_problems(const std::vector<spec::Diagnostic>& problems, std::string_view word,
                    const std::string& file) {
  for (const spec::Diagnostic& one : problems) {
    complain("{}\n", line_of(one, word, file));
  }
}

}  // namespace quad::cli
