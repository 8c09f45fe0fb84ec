#include "runner/run_program.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/file.h"
#include "base/text.h"

namespace quad::runner {
namespace {

constexpr std::size_t kMostOutput = 1ULL << 30U;
constexpr std::size_t kMostWords = 64U << 10U;

Result<UniqueFd> make_file(const char* name) {
  UniqueFd fd(::memfd_create(name, MFD_CLOEXEC));
  return fd ? Result<UniqueFd>(std::move(fd)) : errno_error("Cannot start a process", errno);
}

// The last `most` bytes.
std::string content_of(int fd, std::size_t most) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) {
    return {};
  }
  const auto size = static_cast<std::size_t>(info.st_size);
  std::string text(std::min(size, most), '\0');
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::pread(fd, text.data() + done, text.size() - done,
                                static_cast<off_t>(size - text.size() + done));
    if (got <= 0) {
      break;
    }
    done += static_cast<std::size_t>(got);
  }
  text.resize(done);
  return text;
}

std::vector<char*> pointers(const std::vector<std::string>& words) {
  std::vector<char*> all;
  all.reserve(words.size() + 1);
  for (const std::string& word : words) {
    all.push_back(const_cast<char*>(word.c_str()));
  }
  all.push_back(nullptr);
  return all;
}

// The line of its last words that says why: git's first "fatal:", or what ssh said before it; else
// the last one.
std::string_view reason_in(std::string_view words) {
  constexpr std::string_view kOnlyThat = "fatal: Could not read from remote repository.";
  std::string_view before;
  for (const std::string_view line : split(trim(words), '\n')) {
    if (line.starts_with("fatal: ")) {
      return line == kOnlyThat && !before.empty() ? before : line;
    }
    before = line;
  }
  return before;
}

}  // namespace

Result<std::string> run_program(const std::vector<std::string>& arguments,
                                const std::vector<std::string>& environment,
                                std::string_view input) {
  QUAD_ASSIGN(const UniqueFd in, make_file("quad-in"));
  QUAD_ASSIGN(const UniqueFd out, make_file("quad-out"));
  QUAD_ASSIGN(const UniqueFd words, make_file("quad-words"));
  QUAD_TRY(write_all(in.get(), input));
  ::lseek(in.get(), 0, SEEK_SET);
  const std::vector<char*> argv = pointers(arguments);
  const std::vector<char*> envp = pointers(environment);
  const pid_t child = ::fork();
  if (child < 0) {
    return errno_error("Cannot start a process", errno);
  }
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::dup2(in.get(), 0);
    ::dup2(out.get(), 1);
    ::dup2(words.get(), 2);
    ::execvpe(argv[0], argv.data(), envp.data());
    ::_exit(127);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    return content_of(out.get(), kMostOutput);
  }
  const std::string said = content_of(words.get(), kMostWords);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127 && said.empty()) {
    return error(ErrorCode::kNotFound,
                 fmt::format("the program {} is not in this image", arguments.front()));
  }
  return error(ErrorCode::kIo, fmt::format("{} says: {}", arguments.front(), reason_in(said)));
}

}  // namespace quad::runner
