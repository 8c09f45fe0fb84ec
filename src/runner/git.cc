#include "runner/git.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <ctime>
#include <map>
#include <optional>

#include "base/base64.h"
#include "base/file.h"
#include "base/git_address.h"
#include "base/remove_tree.h"
#include "base/text.h"
#include "runner/parents.h"
#include "runner/run_program.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kBrought = "refs/quad/brought";  // the commit that was brought last
constexpr int kStaleLockSeconds = 60;

std::string_view variable(const Order& order, std::string_view name) {
  std::string_view value;
  for (const auto* list : {&order.envs, &order.secrets}) {
    for (const Variable& candidate : *list) {
      if (candidate.name == name) {
        value = candidate.value;
      }
    }
  }
  return value;
}

// A token goes in by a variable that only this host's requests use, so that it is neither in an
// argument nor in the repository's configuration.
std::vector<std::string> environment_of(const Mount& mount, const Order& order) {
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    if (!text.starts_with("HOME=") && !text.starts_with("GIT_") &&
        !text.starts_with("XDG_CONFIG_HOME=") && !text.starts_with("SSH_ASKPASS")) {
      environment.emplace_back(text);
    }
  }
  for (const char* fixed :
       {"HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
        "GIT_ATTR_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0",
        "GIT_ALLOW_PROTOCOL=file:git:http:https:ssh", "LC_ALL=C"}) {
    environment.emplace_back(fixed);
  }
  if (const std::string_view file = variable(order, "GIT_SSL_CAINFO"); !file.empty()) {
    environment.push_back(fmt::format("GIT_SSL_CAINFO={}", file));
  }
  const std::string_view token = variable(order, "GIT_TOKEN");
  if (!token.empty() && mount.url.starts_with("https://")) {
    const std::size_t end = mount.url.find('/', 8);
    environment.emplace_back("GIT_CONFIG_COUNT=1");
    environment.push_back(
        fmt::format("GIT_CONFIG_KEY_0=http.{}/.extraHeader", mount.url.substr(0, end)));
    environment.push_back(fmt::format("GIT_CONFIG_VALUE_0=Authorization: Basic {}",
                                      base64_encode(fmt::format("x-access-token:{}", token))));
  }
  std::string ssh = "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new";
  if (const std::string_view key = variable(order, "GIT_SSH_KEY_PATH"); !key.empty()) {
    ssh += " -o IdentitiesOnly=yes -i " + shell_quote(key);
  }
  environment.push_back("GIT_SSH_COMMAND=" + ssh);
  return environment;
}

bool is_hash(std::string_view text) {
  return text.size() >= 7 && text.size() <= 64 &&
         text.find_first_not_of("0123456789abcdefABCDEF") == std::string_view::npos;
}

/// What there is to bring.
struct Target {
  std::string commit;
  std::string branch;  // empty: none is checked out
};

class Repository {
 public:
  Repository(const Mount& mount, const Order& order, const fs::path& place, Brought& memory,
             std::vector<std::string>& notes)
      : mount_(mount),
        place_(place),
        folder_(place / ".git"),
        memory_(memory),
        notes_(notes),
        environment_(environment_of(mount, order)) {}

  Status bring() {
    QUAD_TRY(begin());
    QUAD_TRY(keep_commits());
    QUAD_ASSIGN(const std::optional<Target> target, fetch());
    if (target) {
      QUAD_TRY(check_out(target->commit));
      QUAD_TRY(move_head(*target));
    }
    return {};
  }

 private:
  Result<std::string> git(std::vector<std::string> arguments, std::string_view input = {}) {
    std::vector<std::string> all = {"git",
                                    "--git-dir=" + folder_.string(),
                                    "--work-tree=" + place_.string(),
                                    "-c",
                                    "core.hooksPath=/dev/null",
                                    "-c",
                                    "core.fsmonitor=false",
                                    "-c",
                                    "submodule.recurse=false",
                                    "-c",
                                    "gc.auto=0",
                                    "-c",
                                    "maintenance.auto=false",
                                    "-c",
                                    "credential.helper="};
    all.insert(all.end(), std::make_move_iterator(arguments.begin()),
               std::make_move_iterator(arguments.end()));
    auto said = run_program(all, environment_, input);
    if (!said.ok()) {
      const std::string& message = said.error().message;
      if (message.find("could not read Username") != std::string::npos ||
          message.find("Authentication failed") != std::string::npos) {
        return error(said.error().code,
                     message + "; a private repository needs --secret GIT_TOKEN=…");
      }
    }
    return said;
  }

  Status do_git(std::vector<std::string> arguments, std::string_view input = {}) {
    const auto said = git(std::move(arguments), input);
    return said.ok() ? Status() : Status(said.error());
  }

  Status begin() {
    const UniqueFd top(::open(place_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    struct stat info {};
    if (!top) {
      return errno_error(fmt::format("Cannot open the folder {}", memory_.shown("")), errno);
    }
    const bool exists = ::fstatat(top.get(), ".git", &info, AT_SYMLINK_NOFOLLOW) == 0;
    if (exists && !memory_.was_brought(".git", Fact::Kind::kRepository)) {
      if (!memory_.was_brought(".git", Fact::Kind::kFolder)) {
        return error(ErrorCode::kExists,
                     fmt::format("{} holds a repository that Quad has not brought; remove it, or "
                                 "bring this one elsewhere",
                                 memory_.shown("")));
      }
      QUAD_TRY(remove_tree_at(top.get(), ".git"));
    }
    QUAD_TRY(memory_.know(".git", {Fact::Kind::kRepository, 0, 0}));
    QUAD_TRY(do_git({"init", "--quiet", "--template="}));
    remove_stale_locks();
    QUAD_TRY(do_git({"config", "--replace-all", "remote.origin.url", mount_.url}));
    return do_git(
        {"config", "--replace-all", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"});
  }

  // Of a git that was killed. Whoever is at work holds these for a moment only.
  void remove_stale_locks() const {
    for (const char* name : {"config.lock", "HEAD.lock", "packed-refs.lock", "shallow.lock"}) {
      struct stat info {};
      const fs::path path = folder_ / name;
      if (::lstat(path.c_str(), &info) == 0 &&
          info.st_mtim.tv_sec + kStaleLockSeconds < std::time(nullptr)) {
        ::unlink(path.c_str());
      }
    }
  }

  // Commits that tasks have made here would hang on nothing once a branch is moved.
  Status keep_commits() {
    const auto head = git({"rev-parse", "--quiet", "--verify", "HEAD^{commit}"});
    if (!head.ok()) {
      return {};
    }
    const std::string commit(trim(*head));
    std::vector<std::string> ask = {"rev-list", "-n", "1", commit, "--not", "--remotes", "--tags"};
    if (git({"rev-parse", "--quiet", "--verify", std::string(kBrought)}).ok()) {
      ask.emplace_back(kBrought);
    }
    const auto own = git(ask);
    if (!own.ok() || trim(*own).empty()) {
      return {};
    }
    const std::string branch = "quad-kept-" + commit.substr(0, 12);
    QUAD_TRY(do_git({"update-ref", "refs/heads/" + branch, commit}));
    notes_.push_back(fmt::format("Commits that tasks had made in {} are kept as its branch {}",
                                 memory_.shown(""), branch));
    return {};
  }

  // What the repository there calls its branches and tags.
  Result<std::optional<Target>> fetch() {
    const std::string& ref = mount_.ref;
    const std::string branch = "refs/heads/" + ref;
    const std::string tag = "refs/tags/" + ref;
    QUAD_ASSIGN(const std::string listed,
                git({"ls-remote", "--symref", "origin", "HEAD", branch, tag}));
    std::map<std::string, std::string, std::less<>> refs;
    std::string default_branch;
    for (const std::string_view line : split(listed, '\n')) {
      const std::size_t tab = line.find('\t');
      if (tab == std::string_view::npos) {
        continue;
      }
      const std::string_view value = line.substr(0, tab);
      const std::string name(line.substr(tab + 1));
      constexpr std::string_view kSymbolic = "ref: refs/heads/";
      if (name == "HEAD" && value.starts_with(kSymbolic)) {
        default_branch = value.substr(kSymbolic.size());
      } else {
        refs[name] = value;
      }
    }
    std::vector<std::string> fetched = {"fetch",   "--quiet",
                                        "--force", "--prune",
                                        "--tags",  "--no-recurse-submodules",
                                        "origin",  "+refs/heads/*:refs/remotes/origin/*"};
    QUAD_TRY(do_git(fetched));
    if (ref.empty() && !refs.contains("HEAD")) {
      return std::optional<Target>();  // nothing has been committed there yet
    }
    if (ref.empty()) {
      return default_branch.empty()
                 ? target(refs["HEAD"], "")
                 : target("refs/remotes/origin/" + default_branch, default_branch);
    }
    if (refs.contains(branch)) {
      return target("refs/remotes/origin/" + ref, ref);
    }
    if (refs.contains(tag)) {
      return target(tag, "");
    }
    if (is_hash(ref)) {
      if (auto known = target(ref, ""); known.ok()) {
        return known;
      }
    }
    // refs/pull/7/head, a commit of no branch; else what can be said of a branch or a tag.
    const Status special = do_git({"fetch", "--quiet", "--no-recurse-submodules", "origin", ref});
    if (special.ok()) {
      return target("FETCH_HEAD", "");
    }
    for (const char* prefix : {"refs/remotes/origin/", "refs/remotes/", "refs/tags/"}) {
      if (auto said = target(prefix + ref, ""); said.ok()) {
        return said;
      }
    }
    return special.error();
  }

  Result<std::optional<Target>> target(const std::string& name, const std::string& branch) {
    QUAD_ASSIGN(const std::string commit,
                git({"rev-parse", "--quiet", "--verify", name + "^{commit}"}));
    return std::optional(Target{std::string(trim(commit)), branch});
  }

  Status check_out(const std::string& commit) {
    QUAD_ASSIGN(const std::string tree, git({"ls-tree", "-r", "-t", "-z", "--full-tree", commit}));
    std::vector<std::string> paths;
    std::string attributes;  // decide how the other files are written
    Parents parents(place_);
    for (std::size_t begin = 0, end = 0; (end = tree.find('\0', begin)) != std::string::npos;
         begin = end + 1) {
      const std::string_view entry(tree.data() + begin, end - begin);
      const std::size_t tab = entry.find('\t');
      const auto words = split(entry.substr(0, tab), ' ');
      if (tab == std::string_view::npos || words.size() < 3) {
        return error(ErrorCode::kIo, "git tells of a tree that cannot be read");
      }
      std::string path(entry.substr(tab + 1));
      const bool is_file = words[1] == "blob";
      const Fact fact = is_file ? object(words[2]) : Fact::folder();
      const std::string name = parents.name_of(path);
      if (const int parent = parents.of(path); parent >= 0) {
        QUAD_TRY(memory_.expect(parent, name, path, fact));
      } else {
        QUAD_TRY(memory_.know(path, fact));
      }
      if (is_file && name == ".gitattributes") {
        attributes += path;
        attributes += '\0';
      }
      if (is_file) {
        paths.push_back(std::move(path));
      }
    }
    QUAD_TRY(write_files(commit, attributes));
    Parents written(place_);
    for (const std::string& path : paths) {
      const int parent = written.of(path);
      if (auto fact =
              parent < 0 ? Result<Fact>(Fact::folder()) : fact_at(parent, written.name_of(path));
          fact.ok() && !fact->is_folder()) {
        QUAD_TRY(memory_.know(path, *fact));
      }
    }
    return {};
  }

  static Fact object(std::string_view name) {
    Fact fact{Fact::Kind::kObject, 0, 0};
    if (name.size() >= 32) {
      std::from_chars(name.data(), name.data() + 16, fact.a, 16);
      std::from_chars(name.data() + 16, name.data() + 32, fact.b, 16);
    }
    return fact;
  }

  // With an index of its own, which takes the other's place when it is whole: so a lock that a
  // task's git has left is in nobody's way.
  Status write_files(const std::string& commit, const std::string& attributes) {
    const fs::path index = folder_ / "quad-index";
    ::unlink(index.c_str());
    ::unlink((folder_ / "quad-index.lock").c_str());
    environment_.push_back("GIT_INDEX_FILE=" + index.string());
    const auto before = read_regular_file(folder_ / "index", 4ULL << 30U);
    if (before.ok()) {  // with it, files that are as they should be are left alone
      QUAD_TRY(write_file_atomically(index, *before));
    }
    Status read = do_git({"read-tree", "--reset", commit});
    if (!read.ok() && before.ok()) {
      ::unlink(index.c_str());
      read = do_git({"read-tree", "--reset", commit});
    }
    QUAD_TRY(read);
    if (!attributes.empty()) {
      QUAD_TRY(do_git({"checkout-index", "--force", "-u", "-z", "--stdin"}, attributes));
    }
    QUAD_TRY(do_git({"checkout-index", "--force", "-u", "--quiet", "--all"}));
    environment_.pop_back();
    if (::rename(index.c_str(), (folder_ / "index").c_str()) != 0) {
      return errno_error(fmt::format("Cannot replace {}", memory_.shown(".git/index")), errno);
    }
    return {};
  }

  Status move_head(const Target& target) {
    if (target.branch.empty()) {
      QUAD_TRY(do_git({"update-ref", "--no-deref", "HEAD", target.commit}));
    } else {
      const std::string branch = "refs/heads/" + target.branch;
      const std::string section = "branch." + target.branch;
      QUAD_TRY(do_git({"update-ref", branch, target.commit}));
      QUAD_TRY(do_git({"symbolic-ref", "HEAD", branch}));
      QUAD_TRY(do_git({"config", "--replace-all", section + ".remote", "origin"}));
      QUAD_TRY(do_git({"config", "--replace-all", section + ".merge", branch}));
    }
    return do_git({"update-ref", std::string(kBrought), target.commit});
  }

  const Mount& mount_;
  const fs::path& place_;
  const fs::path folder_;
  Brought& memory_;
  std::vector<std::string>& notes_;
  std::vector<std::string> environment_;
};

}  // namespace

Status bring_git(const Mount& mount, const Order& order, const fs::path& place, Brought& memory,
                 std::vector<std::string>& notes) {
  if (mount.url.starts_with('-') || mount.ref.starts_with('-')) {
    return error(ErrorCode::kInvalid, "a git url or ref may not begin with \"-\"");
  }
  if (!is_git_address(mount.url)) {
    return error(ErrorCode::kInvalid,
                 fmt::format("git does not fetch from {} here, but from https, http, ssh, git and "
                             "file addresses",
                             mount.url));
  }
  return Repository(mount, order, place, memory, notes).bring();
}

}  // namespace quad::runner
