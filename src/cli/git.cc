#include "cli/git.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "base/text.h"

extern char** environ;  // NOLINT(readability-redundant-declaration)

namespace quad::cli {

namespace fs = std::filesystem;

namespace {

constexpr int kSilenceMs = 30'000;
constexpr std::size_t kPiece = 64U << 10U;
constexpr std::size_t kLongestField = 1U << 20U;

Error unavailable(std::string_view why) {
  return error(ErrorCode::kUnavailable, std::string(why));
}

/// The user's environment, without what would lead git to another repository or have it do more.
/// What a user says of git's own configuration files stays.
std::vector<std::string> environment() {
  constexpr std::array<std::string_view, 5> kKept{
      "GIT_CONFIG_GLOBAL=", "GIT_CONFIG_SYSTEM=", "GIT_CONFIG_NOSYSTEM=",
      "GIT_CEILING_DIRECTORIES=", "GIT_DISCOVERY_ACROSS_FILESYSTEM="};
  std::vector<std::string> all;
  for (char** one = environ; *one != nullptr; ++one) {
    const std::string_view text(*one);
    const bool kept = std::any_of(kKept.begin(), kKept.end(),
                                  [&](std::string_view name) { return text.starts_with(name); });
    if (kept || (!text.starts_with("GIT_") && !text.starts_with("LC_ALL="))) {
      all.emplace_back(text);
    }
  }
  // No protocol is allowed, so a repository with objects elsewhere fetches none of them.
  for (const char* one : {"LC_ALL=C", "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0",
                          "GIT_NO_LAZY_FETCH=1", "GIT_ALLOW_PROTOCOL=none"}) {
    all.emplace_back(one);
  }
  return all;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> out;
  out.reserve(texts.size() + 1);
  for (std::string& text : texts) {
    out.push_back(text.data());
  }
  out.push_back(nullptr);
  return out;
}

}  // namespace

/// A git that is running, with what it is told and what it tells. Killed when it goes out of scope.
class GitProcess {
 public:
  static Result<std::unique_ptr<GitProcess>> start(const fs::path& folder,
                                                   std::vector<std::string> verb) {
    std::unique_ptr<GitProcess> git(new GitProcess());
    QUAD_ASSIGN(Pipe out, make_pipe());
    // A socket, since writing into a pipe that nobody reads any more is a signal.
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
      return errno_error("Cannot make a socket", errno);
    }
    git->in_.reset(ends[0]);
    const UniqueFd in(ends[1]);
    git->complaints_.reset(::memfd_create("git", MFD_CLOEXEC));
    // Whatever these say in the repository's own configuration is not followed.
    std::vector<std::string> words{"git",
                                   "-C",
                                   folder.string(),
                                   "--no-pager",
                                   "-c",
                                   "safe.directory=*",
                                   "-c",
                                   "core.fsmonitor=",
                                   "-c",
                                   "core.hooksPath=/dev/null",
                                   "-c",
                                   "protocol.allow=never"};
    std::move(verb.begin(), verb.end(), std::back_inserter(words));
    std::vector<std::string> variables = environment();
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_adddup2(&files, in.get(), 0);
    posix_spawn_file_actions_adddup2(&files, out.write.get(), 1);
    posix_spawn_file_actions_adddup2(&files, git->complaints_.get(), 2);
    posix_spawn_file_actions_addclosefrom_np(&files, 3);
    sigset_t defaults;
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    const int failure = ::posix_spawnp(&git->pid_, "git", &files, &attributes,
                                       pointers(words).data(), pointers(variables).data());
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    if (failure != 0) {
      git->pid_ = 0;
      return unavailable(failure == ENOENT
                             ? std::string("git is not installed here")
                             : "git cannot be run: " + std::generic_category().message(failure));
    }
    git->out_ = std::move(out.read);
    return git;
  }
  GitProcess(const GitProcess&) = delete;
  GitProcess& operator=(const GitProcess&) = delete;
  ~GitProcess() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      wait();
    }
  }

  /// How much of what it was told it has not yet taken.
  [[nodiscard]] std::size_t untaken() const { return pending_.size(); }
  void tell(std::string_view text) { pending_ += text; }
  void tell_no_more() { in_.reset(); }

  /// What it tells next, up to the NUL; nullopt at its end, which is an error unless it was a good
  /// one.
  Result<std::optional<std::string>> field() {
    for (;;) {
      const std::size_t end = told_.find('\0', at_);
      if (end != std::string::npos) {
        std::string text = told_.substr(at_, end - at_);
        at_ = end + 1;
        return std::optional<std::string>(std::move(text));
      }
      if (ended_) {
        return pid_ == 0 || wait() == 0 ? Result<std::optional<std::string>>(std::nullopt)
                                        : Result<std::optional<std::string>>(failed());
      }
      QUAD_TRY(step());
    }
  }
  /// All that it tells, to its end.
  Result<std::string> rest() {
    while (!ended_) {
      QUAD_TRY(step());
    }
    if (wait() != 0) {
      return failed();
    }
    return told_.substr(at_);
  }

 private:
  GitProcess() = default;

  /// Waits until it takes or tells something.
  Status step() {
    told_.erase(0, std::exchange(at_, 0));
    if (told_.size() > kLongestField) {
      return unavailable("git told more than can be right");
    }
    pollfd waiting[2] = {{out_.get(), POLLIN, 0}, {pending_.empty() ? -1 : in_.get(), POLLOUT, 0}};
    const int ready = ::poll(waiting, 2, kSilenceMs);
    if (ready < 0 && errno != EINTR) {
      return errno_error("Cannot wait for git", errno);
    }
    if (ready == 0) {
      return unavailable("git has not answered for half a minute");
    }
    if (ready > 0 && waiting[1].revents != 0) {
      const ssize_t put =
          ::send(in_.get(), pending_.data(), pending_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (put > 0) {
        pending_.erase(0, static_cast<std::size_t>(put));
      } else if (put < 0 && errno != EINTR && errno != EAGAIN) {
        pending_.clear();  // it has ended: what it tells will say why
      }
    }
    if (ready > 0 && waiting[0].revents != 0) {
      std::array<char, kPiece> buffer;  // NOLINT: filled by read
      const ssize_t got = ::read(out_.get(), buffer.data(), buffer.size());
      if (got > 0) {
        told_.append(buffer.data(), static_cast<std::size_t>(got));
      }
      ended_ = got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN);
    }
    return {};
  }

  int wait() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = 0;
    return status;
  }

  /// What it complained of, in its own words: the first line.
  Error failed() const {
    std::array<char, 4096> buffer{};
    const ssize_t got = ::pread(complaints_.get(), buffer.data(), buffer.size(), 0);
    std::string_view text(buffer.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
    if (const std::size_t fatal = text.find("fatal: "); fatal != std::string_view::npos) {
      text.remove_prefix(fatal + std::strlen("fatal: "));
    }
    text = trim(text.substr(0, text.find('\n')));
    return unavailable(text.empty() ? std::string("git failed without a word")
                                    : fmt::format("git says: {}", text));
  }

  pid_t pid_ = 0;
  UniqueFd in_;
  UniqueFd out_;
  UniqueFd complaints_;
  std::string pending_;
  std::string told_;
  std::size_t at_ = 0;  ///< of told_: what is not yet taken
  bool ended_ = false;
};

std::optional<fs::path> find_repository(const fs::path& folder) {
  for (fs::path above = folder;; above = above.parent_path()) {
    std::error_code failure;
    if (fs::exists(fs::symlink_status(above / ".git", failure))) {
      return above;
    }
    if (above == above.parent_path()) {
      return std::nullopt;
    }
  }
}

GitRepository::~GitRepository() = default;

Result<std::unique_ptr<GitRepository>> GitRepository::open(const fs::path& folder) {
  std::unique_ptr<GitRepository> repository(new GitRepository());
  QUAD_ASSIGN(const auto place,
              GitProcess::start(folder, {"rev-parse", "--is-inside-work-tree", "--show-toplevel"}));
  place->tell_no_more();
  QUAD_ASSIGN(const std::string told, place->rest());
  constexpr std::string_view kInside = "true\n";
  if (!told.starts_with(kInside) || !told.ends_with('\n')) {
    return unavailable("git does not see a work tree there");
  }
  repository->top_ = told.substr(kInside.size(), told.size() - kInside.size() - 1);
  QUAD_ASSIGN(repository->rules_,
              GitProcess::start(folder, {"check-ignore", "--no-index", "--stdin", "-z", "--verbose",
                                         "--non-matching"}));
  QUAD_ASSIGN(repository->index_,
              GitProcess::start(folder, {"ls-files", "--cached", "--stage", "-z"}));
  repository->index_->tell_no_more();
  QUAD_TRY(repository->next_entry());
  if (repository->top_ != folder) {
    QUAD_ASSIGN(const std::vector<bool> itself, repository->matching("", {"."}));
    repository->ignores_folder_ = itself.front();
  }
  return repository;
}

Result<std::vector<bool>> GitRepository::matching(const std::string& below,
                                                  const std::vector<std::string>& names) {
  std::vector<bool> found;
  found.reserve(names.size());
  std::size_t told = 0;
  while (found.size() < names.size()) {
    while (told < names.size() && rules_->untaken() < kPiece) {
      // With "./" nothing in a name means anything but itself.
      rules_->tell("./");
      rules_->tell(below);
      rules_->tell(names[told++]);
      rules_->tell(std::string_view("\0", 1));
    }
    // Source, line, pattern, path; the first three are empty if none matches.
    std::array<std::string, 4> fields;
    for (std::string& field : fields) {
      QUAD_ASSIGN(std::optional<std::string> text, rules_->field());
      if (!text) {
        return unavailable("git ended before it had answered");
      }
      field = std::move(*text);
    }
    found.push_back(!fields[2].empty() && fields[2].front() != '!');
  }
  return found;
}

Status GitRepository::next_entry() {
  QUAD_ASSIGN(const std::optional<std::string> line, index_->field());
  if (!line) {
    entry_.reset();
    return {};
  }
  // "100644 HASH STAGE\tPATH"
  const std::size_t tab = line->find('\t');
  if (tab == std::string::npos) {
    return unavailable("git listed its index in a way that is not known");
  }
  entry_ = line->substr(tab + 1);
  constexpr std::string_view kSubmodule = "160000 ";
  if (line->starts_with(kSubmodule)) {
    submodules_.insert(*entry_);
  }
  return {};
}

Result<bool> GitRepository::tracked(std::string_view path) {
  while (entry_ && std::string_view(*entry_) < path) {
    QUAD_TRY(next_entry());
  }
  if (!path.ends_with('/')) {
    return entry_ == path;
  }
  return (entry_ && entry_->starts_with(path)) ||
         submodules_.contains(path.substr(0, path.size() - 1));
}

}  // namespace quad::cli
