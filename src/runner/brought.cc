#include "runner/brought.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <memory>
#include <optional>
#include <utility>

#include "base/fnv.h"
#include "base/remove_tree.h"
#include "base/text.h"
#include "runner/parents.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMostListBytes = 4ULL << 30U;
constexpr int kDeepestLook = 200;  // into a folder that is in the way
constexpr std::uint64_t kNanos = 1'000'000'000;
constexpr std::string_view kPlaceRecord = "p";
constexpr std::string_view kTemporaryRecord = "t";

std::string name_of_place(const fs::path& place) {
  return fmt::format("{:016x}", fnv1a(place.native()));
}

Result<UniqueFd> open_folder(int parent, const std::string& name) {
  if (::mkdirat(parent, name.c_str(), 0700) != 0 && errno != EEXIST) {
    return errno_error("The list of what was brought cannot be made", errno);
  }
  UniqueFd fd(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  return fd ? Result<UniqueFd>(std::move(fd))
            : errno_error("The lists of what was brought cannot be opened", errno);
}

Status lock(int fd) {
  while (::flock(fd, LOCK_EX) != 0) {
    if (errno != EINTR) {
      return errno_error("The list of what was brought cannot be locked", errno);
    }
  }
  return {};
}

bool is_live(int lists, const std::string& key) {
  const UniqueFd fd(
      ::openat(lists, ("live-" + key).c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct flock asked {};
  asked.l_type = F_WRLCK;
  asked.l_whence = SEEK_SET;
  return fd && ::fcntl(fd.get(), F_OFD_GETLK, &asked) == 0 && asked.l_type != F_UNLCK;
}

std::string key_of(const std::string& file) {
  return file.substr(0, file.find('.'));
}

struct Closer {
  void operator()(DIR* listing) const { ::closedir(listing); }
};

std::vector<std::string> names_in(int folder) {
  std::vector<std::string> names;
  const int copy = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const std::unique_ptr<DIR, Closer> listing(copy < 0 ? nullptr : ::fdopendir(copy));
  while (const dirent* entry = listing == nullptr ? nullptr : ::readdir(listing.get())) {
    if (std::string_view(entry->d_name) != "." && std::string_view(entry->d_name) != "..") {
      names.emplace_back(entry->d_name);
    }
  }
  return names;
}

std::string target_of(int parent, const std::string& name) {
  std::array<char, 4096> target{};
  const ssize_t size = ::readlinkat(parent, name.c_str(), target.data(), target.size());
  return {target.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0))};
}

// The name that git gives to the content of a file or a link, as far as a fact keeps it.
bool is_object(int parent, const std::string& name, const struct stat& info, const Fact& fact) {
  std::string link;
  UniqueFd file;
  if (S_ISLNK(info.st_mode)) {
    link = target_of(parent, name);
  } else {
    file.reset(::openat(parent, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!file) {
      return false;
    }
  }
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> digest(EVP_MD_CTX_new(),
                                                                       &EVP_MD_CTX_free);
  EVP_DigestInit_ex(digest.get(), EVP_sha1(), nullptr);
  const std::string head =
      fmt::format("blob {}", link.empty() ? static_cast<std::uint64_t>(info.st_size) : link.size());
  EVP_DigestUpdate(digest.get(), head.c_str(), head.size() + 1);
  EVP_DigestUpdate(digest.get(), link.data(), link.size());
  std::vector<char> buffer(file ? 256U << 10U : 0);
  while (file) {
    const ssize_t got = ::read(file.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      break;
    }
    EVP_DigestUpdate(digest.get(), buffer.data(), static_cast<std::size_t>(got));
  }
  std::array<unsigned char, EVP_MAX_MD_SIZE> sum{};
  EVP_DigestFinal_ex(digest.get(), sum.data(), nullptr);
  const std::string hex = to_hex({reinterpret_cast<const char*>(sum.data()), 16});
  return hex == fmt::format("{:016x}{:016x}", fact.a, fact.b);
}

bool is_as(int parent, const std::string& name, const struct stat& info, const Fact& fact) {
  switch (fact.kind) {
    case Fact::Kind::kFile: {
      const Fact now = Fact::file(static_cast<std::uint64_t>(info.st_size), info.st_mtim);
      // Some file systems keep whole seconds.
      return S_ISREG(info.st_mode) && now.a == fact.a &&
             (now.b == fact.b || (now.b % kNanos == 0 && now.b / kNanos == fact.b / kNanos));
    }
    case Fact::Kind::kLink:
      return S_ISLNK(info.st_mode) && fnv1a(target_of(parent, name)) == fact.a;
    case Fact::Kind::kFolder:
    case Fact::Kind::kRepository:
      return S_ISDIR(info.st_mode);
    case Fact::Kind::kObject:
      return (S_ISREG(info.st_mode) || S_ISLNK(info.st_mode)) &&
             is_object(parent, name, info, fact);
  }
  return false;
}

std::string below(const std::string& path, std::string_view name) {
  return path.empty() ? std::string(name) : fmt::format("{}/{}", path, name);
}

// The part of `path` below `place`; nullopt if it is not in it.
std::optional<std::string> part_below(const std::string& path, const std::string& place) {
  if (path == place) {
    return std::string();
  }
  if (path.size() > place.size() && path.starts_with(place) && path[place.size()] == '/') {
    return path.substr(place.size() + 1);
  }
  return std::nullopt;
}

}  // namespace

Fact Fact::file(std::uint64_t size, const timespec& time) {
  return {
      Kind::kFile, size,
      static_cast<std::uint64_t>(time.tv_sec) * kNanos + static_cast<std::uint64_t>(time.tv_nsec)};
}

Fact Fact::link(std::string_view target) {
  return {Kind::kLink, fnv1a(target), 0};
}

Result<Fact> fact_at(int parent, const std::string& name) {
  struct stat info {};
  if (::fstatat(parent, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
    return error(ErrorCode::kNotFound, fmt::format("There is no {}", name));
  }
  if (S_ISREG(info.st_mode)) {
    return Fact::file(static_cast<std::uint64_t>(info.st_size), info.st_mtim);
  }
  if (S_ISLNK(info.st_mode)) {
    return Fact::link(target_of(parent, name));
  }
  if (S_ISDIR(info.st_mode)) {
    return Fact::folder();
  }
  return error(ErrorCode::kInvalid, fmt::format("{} is no file, folder or link", name));
}

Result<UniqueFd> hold_brought(int lists, std::string_view key) {
  UniqueFd fd(::openat(lists, fmt::format("live-{}", key).c_str(),
                       O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644));
  if (!fd) {
    return errno_error("The list of what was brought cannot be made", errno);
  }
  struct flock whole {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(fd.get(), F_OFD_SETLK, &whole) != 0) {
    return errno_error("The list of what was brought cannot be locked", errno);
  }
  return fd;
}

Result<Brought> Brought::open(int lists, const fs::path& place, std::string_view key,
                              std::string shown) {
  Brought brought;
  brought.place_ = place;
  brought.shown_ = std::move(shown);
  brought.folder_name_ = name_of_place(place);
  brought.lists_ = UniqueFd(::fcntl(lists, F_DUPFD_CLOEXEC, 3));
  QUAD_ASSIGN(brought.folder_, open_folder(lists, brought.folder_name_));
  const int folder = brought.folder_.get();
  brought.lock_ =
      UniqueFd(::openat(folder, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!brought.lock_) {
    return errno_error("The list of what was brought cannot be locked", errno);
  }
  QUAD_TRY(lock(brought.lock_.get()));
  QUAD_TRY(brought.read_lists(lists));
  brought.file_ = fmt::format("{}.{}", key, random_hex(4));
  brought.temporary_ = ".quad-" + random_hex(8);
  brought.journal_ = UniqueFd(::openat(folder, brought.file_.c_str(),
                                       O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600));
  if (!brought.journal_) {
    return errno_error("The list of what was brought cannot be made", errno);
  }
  std::string head = fmt::format("{} 0 0 {}", kPlaceRecord, place.native());
  head += '\0';
  head += fmt::format("{} 0 0 {}", kTemporaryRecord, brought.temporary_);
  head += '\0';
  QUAD_TRY(write_all(brought.journal_.get(), head));
  return brought;
}

Result<Brought::List> Brought::read_list(int folder, const std::string& file) {
  List list;
  list.file = file;
  const UniqueFd fd(::openat(folder, file.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  struct stat info {};
  if (!fd || ::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode) ||
      static_cast<std::uint64_t>(info.st_size) > kMostListBytes) {
    return error(ErrorCode::kIo, "The list of what was brought cannot be read");
  }
  std::string text(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t got = ::read(fd.get(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      break;
    }
    size += static_cast<std::size_t>(got);
  }
  std::string temporary;
  std::string last;
  // What follows the last zero byte was never written whole, and tells of nothing that was made.
  for (std::size_t begin = 0, end = 0; (end = text.find('\0', begin)) < size; begin = end + 1) {
    const char* at = text.data() + begin;
    const char* stop = text.data() + end;
    Fact fact;
    fact.kind = static_cast<Fact::Kind>(*at);
    const auto a = std::from_chars(std::min(at + 2, stop), stop, fact.a);
    const auto b = std::from_chars(std::min(a.ptr + 1, stop), stop, fact.b);
    std::string path(std::min(b.ptr + 1, stop), stop);
    if (*at == kPlaceRecord[0]) {
      list.place = std::move(path);
    } else if (*at == kTemporaryRecord[0]) {
      temporary = std::move(path);
    } else {
      last = path;
      list.facts[std::move(path)] = fact;
    }
  }
  // Of a bringing that was killed in the middle of a file.
  const fs::path place(list.place);
  Parents parents(place);
  if (const int parent = temporary.empty() ? -1 : parents.of(last); parent >= 0) {
    ::unlinkat(parent, temporary.c_str(), 0);
  }
  return list;
}

Status Brought::read_lists(int lists) {
  for (const std::string& file : names_in(folder_.get())) {
    if (file == "lock") {
      continue;
    }
    QUAD_ASSIGN(List list, read_list(folder_.get(), file));
    if (list.place == place_.native()) {
      list.live = is_live(lists, key_of(file));
      before_.push_back(std::move(list));
    }
  }
  return {};
}

void Brought::read_other_places() {
  if (std::exchange(knows_elsewhere_, true)) {
    return;
  }
  for (const std::string& name : names_in(lists_.get())) {
    auto folder = name == folder_name_ || name.starts_with("live-")
                      ? Result<UniqueFd>(UniqueFd())
                      : open_folder(lists_.get(), name);
    if (!folder.ok() || !*folder) {
      continue;
    }
    for (const std::string& file : names_in(folder->get())) {
      auto list = file == "lock" ? Result<List>(List()) : read_list(folder->get(), file);
      if (list.ok() &&
          (part_below(list->place, place_.native()) || part_below(place_.native(), list->place))) {
        elsewhere_.push_back(std::move(list).value());
      }
    }
  }
}

std::string Brought::shown(const std::string& path) const {
  return path.empty() ? shown_ : fmt::format("{}/{}", shown_, path);
}

const Fact* Brought::expected(const std::string& path) const {
  const auto it = own_.find(path);
  return it == own_.end() ? nullptr : &it->second;
}

bool Brought::was_brought(const std::string& path, Fact::Kind kind) const {
  return std::any_of(before_.begin(), before_.end(), [&](const List& list) {
    const auto it = list.facts.find(path);
    return it != list.facts.end() && it->second.kind == kind;
  });
}

bool Brought::was_brought_now(const std::string& path) const {
  return std::any_of(before_.begin(), before_.end(), [&](const List& list) {
    return key_of(list.file) == key_of(file_) && list.facts.contains(path);
  });
}

// Whether what is there is as somebody brought it.
bool Brought::is_known(int parent, const std::string& name, const std::string& path) {
  struct stat info {};
  if (::fstatat(parent, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
    return true;
  }
  const auto says = [&](const Facts& facts, const std::string& key) {
    const auto it = facts.find(key);
    return it != facts.end() && is_as(parent, name, info, it->second);
  };
  if (says(own_, path) || std::any_of(before_.begin(), before_.end(),
                                      [&](const List& list) { return says(list.facts, path); })) {
    return true;
  }
  read_other_places();
  const std::string whole = path.empty() ? place_.native() : place_.native() + "/" + path;
  return std::any_of(elsewhere_.begin(), elsewhere_.end(), [&](const List& list) {
    const auto part = part_below(whole, list.place);
    return part && says(list.facts, *part);
  });
}

Status Brought::expect(int parent, const std::string& name, const std::string& path,
                       const Fact& fact) {
  struct stat info {};
  if (::fstatat(parent, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) {
    const bool folder = S_ISDIR(info.st_mode);
    if (folder && !fact.is_folder()) {
      QUAD_TRY(make_way(parent, name, path));
    } else if (!folder) {
      if (!before_.empty() && !is_known(parent, name, path)) {
        tell_of(path);
      }
      if (fact.is_folder() && ::unlinkat(parent, name.c_str(), 0) != 0 && errno != ENOENT) {
        return errno_error(fmt::format("Cannot replace {}", shown(path)), errno);
      }
    }
  }
  return know(path, fact);
}

Status Brought::know(const std::string& path, const Fact& fact) {
  own_[path] = fact;
  return append(path, fact);
}

Status Brought::append(const std::string& path, const Fact& fact) {
  std::string record =
      fmt::format("{} {} {} {}", static_cast<char>(fact.kind), fact.a, fact.b, path);
  record += '\0';
  return write_all(journal_.get(), record);
}

// A folder is in the way of a file or a link.
Status Brought::make_way(int parent, const std::string& name, const std::string& path) {
  struct Level {
    std::string path;
    UniqueFd fd;
    std::vector<std::string> names;
  };
  std::vector<Level> levels;
  std::vector<std::string> foreign;
  const auto enter = [&](int above, const std::string& folder, std::string at) {
    UniqueFd fd(::openat(above, folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd || levels.size() >= kDeepestLook) {
      foreign.push_back(std::move(at));  // what cannot be looked at is not taken for Quad's
      return;
    }
    auto names = names_in(fd.get());
    levels.push_back({std::move(at), std::move(fd), std::move(names)});
  };
  enter(parent, name, path);
  while (!levels.empty()) {
    if (levels.back().names.empty()) {
      levels.pop_back();
      continue;
    }
    const std::string one = std::move(levels.back().names.back());
    levels.back().names.pop_back();
    const std::string at = below(levels.back().path, one);
    const int fd = levels.back().fd.get();
    struct stat info {};
    if (was_brought(at, Fact::Kind::kRepository) || one == temporary_ ||
        ::fstatat(fd, one.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
      continue;
    }
    if (S_ISDIR(info.st_mode)) {
      enter(fd, one, at);
    } else if (!is_known(fd, one, at)) {
      foreign.push_back(at);
    }
  }
  if (!foreign.empty()) {
    std::sort(foreign.begin(), foreign.end());
    return error(
        ErrorCode::kExists,
        fmt::format("{} is to become a file or a link, but is a folder there in which tasks have "
                    "written {}{}; move that away or remove it (quad exec, quad shell), and try "
                    "again",
                    shown(path), shown(foreign.front()),
                    foreign.size() > 1 ? fmt::format(" and {} more", foreign.size() - 1) : ""));
  }
  if (auto removed = remove_tree_at(parent, name); !removed.ok()) {
    return Error{removed.error().code,
                 fmt::format("Cannot replace {}: {}", shown(path), removed.error().message),
                 {}};
  }
  return {};
}

// Those of `paths` that are as they were brought, and folders that are empty then.
void Brought::remove(const std::vector<std::string>& paths) {
  Parents parents(place_);
  std::vector<std::string> folders;
  for (const std::string& path : paths) {
    const int parent = parents.of(path);
    const std::string name = parents.name_of(path);
    struct stat info {};
    if (parent < 0 || ::fstatat(parent, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
      continue;
    }
    if (was_brought(path, Fact::Kind::kRepository)) {
      (void)remove_tree_at(parent, name);
    } else if (S_ISDIR(info.st_mode)) {
      folders.push_back(path);
    } else if (is_known(parent, name, path) && ::unlinkat(parent, name.c_str(), 0) != 0 &&
               errno == EACCES) {
      allow_writing(parent);
      ::unlinkat(parent, name.c_str(), 0);
    }
  }
  // Sorted, so what is inside comes after what it is in.
  for (auto path = folders.rbegin(); path != folders.rend(); ++path) {
    const int parent = path->empty() ? -1 : parents.of(*path);
    if (parent >= 0 && ::unlinkat(parent, parents.name_of(*path).c_str(), AT_REMOVEDIR) != 0) {
      (void)append(*path, Fact::folder());  // it goes once what a task has in it has gone
    }
  }
}

Status Brought::finish() {
  std::vector<std::string> gone;
  for (const List& list : before_) {
    for (const auto& [path, fact] : list.facts) {
      const bool kept =
          list.live || own_.contains(path) ||
          std::any_of(before_.begin(), before_.end(), [&path = path](const List& other) {
            return other.live && other.facts.contains(path);
          });
      if (!kept) {
        gone.push_back(path);
      }
    }
  }
  std::sort(gone.begin(), gone.end());
  gone.erase(std::unique(gone.begin(), gone.end()), gone.end());
  remove(gone);
  for (const List& list : before_) {
    if (!list.live) {
      ::unlinkat(folder_.get(), list.file.c_str(), 0);
      ::unlinkat(lists_.get(), ("live-" + key_of(list.file)).c_str(), 0);
    }
  }
  return {};
}

void Brought::undo() {
  std::vector<std::string> gone;
  for (const auto& [path, fact] : own_) {
    if (std::none_of(before_.begin(), before_.end(),
                     [&path = path](const List& list) { return list.facts.contains(path); })) {
      gone.push_back(path);
    }
  }
  std::sort(gone.begin(), gone.end());
  remove(gone);
}

void Brought::tell_of(const std::string& path) {
  constexpr std::uint64_t kExamples = 3;
  if (overwritten_++ < kExamples) {
    examples_ += (examples_.empty() ? "" : ", ") + shown(path);
  } else if (overwritten_ == kExamples + 1) {
    examples_ += ", …";
  }
}

std::string Brought::story() const {
  if (overwritten_ == 0) {
    return {};
  }
  return fmt::format(
      "Tasks had changed {} of the files that are brought; now they are as they were "
      "sent: {}",
      overwritten_, examples_);
}

}  // namespace quad::runner
