#include "cli/tree.h"

#include <dirent.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <optional>
#include <utility>

#include "base/data_dir.h"
#include "base/file.h"
#include "cli/git.h"
#include "cli/ignore.h"

namespace quad::cli {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kLargestRules = 1U << 20U;
constexpr std::size_t kMostCounted = 20'000;  // entries of what stays behind
constexpr std::string_view kToLeaveIt =
    "; let it be read, or name it in .skyignore to leave it behind";

bool has_gone(int failure) {
  return failure == ENOENT || failure == ENOTDIR;
}

/// Where rules come from, from one folder on: a repository, or the source itself.
struct Scope {
  std::string base;  ///< that folder, below the source: "" or "a/b/"
  std::unique_ptr<GitRepository> git;
  std::optional<IgnoreRules> rules;  ///< else git's are asked for
  std::string above;  ///< that folder below the top that `rules` count from, likewise
  bool reads_gitignore = false;
};

/// The rules of the repository at `top` that git would read outside of `folder`.
IgnoreRules rules_around(const fs::path& top, const fs::path& folder) {
  IgnoreRules rules;
  const char* home = std::getenv("HOME");
  const char* config = std::getenv("XDG_CONFIG_HOME");
  const fs::path global = config != nullptr && *config != '\0'
                              ? fs::path(config)
                              : fs::path(home == nullptr ? "" : home) / ".config";
  for (const fs::path& file : {global / "git" / "ignore", top / ".git" / "info" / "exclude"}) {
    if (const auto text = read_regular_file(file, kLargestRules); text.ok()) {
      rules.add(*text, "");
    }
  }
  const fs::path below = folder.lexically_relative(top);
  fs::path at;
  for (const fs::path& part : below) {
    if (part == ".") {
      break;
    }
    if (const auto text = read_regular_file(top / at / ".gitignore", kLargestRules); text.ok()) {
      rules.add(*text, at.string());
    }
    at /= part;
  }
  return rules;
}

bool ignores_any_of(const IgnoreRules& rules, const std::string& path) {
  for (std::size_t end = path.find('/'); end != std::string::npos; end = path.find('/', end + 1)) {
    if (rules.ignored(std::string_view(path).substr(0, end), true)) {
      return true;
    }
  }
  return false;
}

class Walker {
 public:
  Walker(fs::path top, const Take& take) : top_(std::move(top)), take_(take) {}

  Result<Contents> run() {
    QUAD_TRY(check_not_quads_own(top_));
    if (::stat(top_.c_str(), &top_info_) != 0) {
      return errno_error(fmt::format("Cannot read {}", top_.string()), errno);
    }
    QUAD_ASSIGN(Scope scope, first_scope());
    contents_.left_behind.rules = scope.git && !scope.rules ? "git"
                                  : by_skyignore_           ? ".skyignore"
                                                            : ".gitignore";
    scopes_.push_back(std::move(scope));
    QUAD_TRY(add_folder(""));
    return std::move(contents_);
  }

 private:
  /// A name in a folder; one that ends in a slash is a folder's, so that they sort as git's index
  /// does.
  using Names = std::vector<std::string>;

  Result<Scope> first_scope() {
    Scope scope;
    const auto text = read_file(top_ / ".skyignore", kLargestRules);
    if (text.ok()) {
      by_skyignore_ = true;
      scope.rules.emplace().add(*text, "");
      return scope;
    }
    if (text.error().code != ErrorCode::kNotFound) {
      return text.error();
    }
    if (const auto repository = find_repository(top_)) {
      return repository_scope("", *repository);
    }
    scope.rules.emplace();
    scope.reads_gitignore = true;
    return scope;
  }

  /// For the folder `base`, which is in the repository at `top`, or at least should be.
  Scope repository_scope(const std::string& base, const fs::path& top) {
    Scope scope;
    scope.base = base;
    const fs::path folder = base.empty() ? top_ : top_ / base.substr(0, base.size() - 1);
    auto git = GitRepository::open(folder);
    if (git.ok()) {
      scope.git = std::move(*git);
      if (scope.git->ignores_folder()) {
        scope.rules.emplace();
        scope.reads_gitignore = true;
      }
      return scope;
    }
    if (contents_.without_git.empty()) {
      contents_.without_git = fmt::format("{}: {}", top.string(), git.error().message);
    }
    scope.reads_gitignore = true;
    if (const fs::path below = folder.lexically_relative(top); below != ".") {
      scope.above = below.string() + "/";
    }
    scope.rules = rules_around(top, folder);
    if (ignores_any_of(*scope.rules, scope.above)) {
      scope.above.clear();
      scope.rules.emplace();
    }
    return scope;
  }

  /// nullopt: it has gone.
  Result<std::optional<Names>> list(const fs::path& folder) {
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(::opendir(folder.c_str()), &::closedir);
    if (stream == nullptr) {
      if (has_gone(errno)) {
        return std::optional<Names>();
      }
      Error failure = errno_error(fmt::format("Cannot list {}", folder.string()), errno);
      failure.message += kToLeaveIt;
      return failure;
    }
    Names names;
    errno = 0;
    while (const dirent* one = ::readdir(stream.get())) {
      std::string name(one->d_name);
      if (name == "." || name == "..") {
        continue;
      }
      bool is_folder = one->d_type == DT_DIR;
      if (one->d_type == DT_UNKNOWN) {
        std::error_code failure;
        is_folder = fs::is_directory(fs::symlink_status(folder / name, failure));
      }
      names.push_back(is_folder ? name + "/" : std::move(name));
      errno = 0;
    }
    if (errno != 0 && !has_gone(errno)) {
      return errno_error(fmt::format("Cannot list {}", folder.string()), errno);
    }
    std::sort(names.begin(), names.end());
    return std::optional<Names>(std::move(names));
  }

  /// `below`: the folder, "" or "a/b/".
  Status add_folder(const std::string& below) {
    const fs::path folder = below.empty() ? top_ : top_ / below;
    QUAD_ASSIGN(const std::optional<Names> names, list(folder));
    if (!names) {
      contents_.vanished.add(below);
      return {};
    }
    const std::size_t before = scope().rules ? scope().rules->size() : 0;
    if (scope().reads_gitignore) {
      QUAD_TRY(read_gitignore(folder, below));
    }
    QUAD_ASSIGN(const std::vector<bool> ignored, ignored_of(below, *names));
    for (std::size_t i = 0; i < names->size(); ++i) {
      const std::string path = below + (*names)[i];
      QUAD_ASSIGN(const bool stays, stays_behind(path, ignored[i]));
      if (stays) {
        leave_behind(path);
      } else {
        QUAD_TRY(add(path));
      }
    }
    if (scope().rules) {
      scope().rules->shrink(before);
    }
    return {};
  }

  Scope& scope() { return scopes_.back(); }

  Status read_gitignore(const fs::path& folder, const std::string& below) {
    const auto text = read_regular_file(folder / ".gitignore", kLargestRules);
    if (text.ok()) {
      std::string place = scope().above + below.substr(scope().base.size());
      if (!place.empty()) {
        place.pop_back();
      }
      scope().rules->add(*text, place);
    } else if (text.error().code == ErrorCode::kExhausted) {
      return text.error();
    }
    return {};  // one that is a link or cannot be read has no rules, as for git
  }

  Result<std::vector<bool>> ignored_of(const std::string& below, const Names& names) {
    const std::string inside = below.substr(scope().base.size());
    if (!scope().rules) {
      Names plain = names;
      for (std::string& name : plain) {
        if (name.ends_with('/')) {
          name.pop_back();
        }
      }
      auto answer = scope().git->matching(inside, plain);
      if (!answer.ok()) {
        return error(
            ErrorCode::kIo,
            fmt::format("What to leave behind of {} is not known, as {}; with a .skyignore "
                        "at its top git is not asked",
                        top_.string(), answer.error().message));
      }
      return answer;
    }
    std::vector<bool> ignored;
    ignored.reserve(names.size());
    for (const std::string& name : names) {
      const bool is_folder = name.ends_with('/');
      std::string path = scope().above + inside + name;
      if (is_folder) {
        path.pop_back();
      }
      ignored.push_back(scope().rules->ignored(path, is_folder));
    }
    return ignored;
  }

  Result<bool> stays_behind(const std::string& path, bool ignored) {
    if (by_skyignore_ || !ignored) {
      return ignored;
    }
    if (path == ".git" || path == ".git/" || path.ends_with("/.git") || path.ends_with("/.git/")) {
      return false;
    }
    for (const Scope& one : scopes_) {
      if (one.git) {
        QUAD_ASSIGN(const bool tracked,
                    one.git->tracked(std::string_view(path).substr(one.base.size())));
        if (tracked) {
          return false;
        }
      }
    }
    return true;
  }

  Status add(const std::string& listed) {
    std::string name = listed;
    if (name.ends_with('/')) {
      name.pop_back();
    }
    const fs::path path = top_ / name;
    struct stat info {};
    if (::lstat(path.c_str(), &info) != 0) {
      if (has_gone(errno)) {
        contents_.vanished.add(name);
        return {};
      }
      return errno_error(fmt::format("Cannot read {}", path.string()), errno);
    }
    if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode) && !S_ISLNK(info.st_mode)) {
      contents_.odd.add(name);
      return {};
    }
    if (S_ISDIR(info.st_mode) && is_data_directory(path)) {
      contents_.data_directories.add(name);
      return {};
    }
    const std::string target = S_ISLNK(info.st_mode) ? target_of(path, name) : std::string();
    if (const Status taken = take_(Found{name, path, info, target}); !taken.ok()) {
      if (taken.error().code == ErrorCode::kNotFound) {
        contents_.vanished.add(name);
        return {};
      }
      return taken;
    }
    if (!S_ISDIR(info.st_mode)) {
      ++contents_.files;
      contents_.bytes += S_ISREG(info.st_mode) ? static_cast<std::uint64_t>(info.st_size) : 0;
      return {};
    }
    return enter(path, name + "/");
  }

  Status enter(const fs::path& path, const std::string& below) {
    std::error_code failure;
    std::optional<Scope> inner;
    if (!by_skyignore_) {
      if (path.filename() == ".git") {
        inner.emplace();  // what git keeps there is under no rules
        inner->rules.emplace();
        inner->base = below;
      } else if (fs::exists(fs::symlink_status(path / ".git", failure))) {
        inner = repository_scope(below, path);
        if (inner->git ? inner->git->top() != path : scope().git != nullptr) {
          inner.reset();  // a .git that is no repository's
        }
      }
    }
    const bool is_scope = inner.has_value();
    if (is_scope) {
      scopes_.push_back(std::move(*inner));
    }
    const Status added = add_folder(below);
    if (is_scope) {
      scopes_.pop_back();
    }
    return added;
  }

  /// What a link is to lead to. Links that a job will not be able to follow are noted.
  std::string target_of(const fs::path& path, const std::string& name) {
    std::error_code failure;
    std::string target = fs::read_symlink(path, failure).string();
    const auto depth = static_cast<std::size_t>(std::count(name.begin(), name.end(), '/'));
    bool inside = false;
    if (!target.starts_with('/')) {
      const fs::path place = (fs::path(name).parent_path() / target).lexically_normal();
      inside = place.empty() || *place.begin() != "..";
    } else if (const auto rest = below_top(target)) {
      inside = true;
      fs::path way;
      for (std::size_t i = 0; i < depth; ++i) {
        way /= "..";
      }
      way = rest->empty() ? way : way / *rest;
      target = way.empty() ? "." : way.string();
    }
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) {
      contents_.dangling.add(fmt::format("{} -> {}", name, target));
    } else if (!inside) {
      contents_.outside.add(fmt::format("{} -> {}", name, target));
    }
    return target;
  }

  /// What follows the source in an absolute path, whichever way the path leads to it.
  std::optional<std::string> below_top(const std::string& target) const {
    fs::path at = "/";
    const fs::path whole(target);
    for (auto part = std::next(whole.begin()); part != whole.end(); ++part) {
      at /= *part;
      struct stat info {};
      if (::stat(at.c_str(), &info) != 0) {
        return std::nullopt;
      }
      if (info.st_dev == top_info_.st_dev && info.st_ino == top_info_.st_ino) {
        fs::path rest;
        for (++part; part != whole.end(); ++part) {
          rest /= *part;
        }
        // With ".." in it, it may leave again by way of a link.
        const fs::path plain = rest.lexically_normal();
        return std::find(rest.begin(), rest.end(), "..") == rest.end()
                   ? std::optional(rest.string())
               : plain.empty() || *plain.begin() != ".." ? std::optional(plain.string())
                                                         : std::nullopt;
      }
    }
    return std::nullopt;
  }

  void leave_behind(const std::string& path) {
    LeftBehind& left = contents_.left_behind;
    LeftBehind::Part part{path, 0};
    const auto count = [&](const fs::path& file) {
      struct stat info {};
      if (counted_ >= kMostCounted) {
        left.counted = false;
        return false;
      }
      ++counted_;
      if (::lstat(file.c_str(), &info) == 0 && !S_ISDIR(info.st_mode)) {
        ++left.files;
        part.bytes += S_ISREG(info.st_mode) ? static_cast<std::uint64_t>(info.st_size) : 0;
      }
      return true;
    };
    bool more = count(top_ / path);
    if (path.ends_with('/')) {
      std::error_code failure;
      for (fs::recursive_directory_iterator
               it(top_ / path, fs::directory_options::skip_permission_denied, failure),
           end;
           more && !failure && it != end; it.increment(failure)) {
        more = count(it->path());
      }
    }
    ++left.parts;
    left.bytes += part.bytes;
    const auto place =
        std::find_if(left.largest.begin(), left.largest.end(),
                     [&](const LeftBehind::Part& one) { return one.bytes < part.bytes; });
    left.largest.insert(place, std::move(part));
    if (left.largest.size() > LeftBehind::kShown) {
      left.largest.pop_back();
    }
  }

  const fs::path top_;
  const Take& take_;
  struct stat top_info_ {};
  bool by_skyignore_ = false;
  std::vector<Scope> scopes_;  ///< the last is the one that the walk is in
  std::size_t counted_ = 0;
  Contents contents_;
};

}  // namespace

void Sample::add(std::string name) {
  ++count;
  if (names.size() < kShown) {
    names.push_back(std::move(name));
  }
}

std::string Sample::text() const {
  std::string text = fmt::format("{}", fmt::join(names, ", "));
  return count > names.size() ? text + fmt::format(" and {} more", count - names.size()) : text;
}

Status check_not_quads_own(const fs::path& path) {
  if (const auto data = data_directory_around(path)) {
    return error(ErrorCode::kInvalid,
                 fmt::format("{} is {}a Quad server's data directory, with its keys and records, "
                             "which go into no job",
                             path.string(), *data == path ? "" : "in "));
  }
  return {};
}

Result<Contents> walk(const fs::path& source, const Take& take) {
  std::error_code failure;
  const fs::path top = fs::canonical(source, failure);
  // "." may be open to somebody to whom the folders above it are not.
  return Walker(failure ? source : top, take).run();
}

}  // namespace quad::cli
