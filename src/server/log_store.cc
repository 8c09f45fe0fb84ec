#include "server/log_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace quad::server {

namespace {

constexpr std::size_t kOpenFiles = 256;
constexpr std::uint64_t kMarkBytes = 64 * 1024;
constexpr std::int64_t kMarkMillis = 200;

std::uint64_t newlines(std::string_view bytes) {
  return static_cast<std::uint64_t>(std::count(bytes.begin(), bytes.end(), '\n'));
}

/// When the file was last written, in milliseconds of wall time.
std::optional<std::int64_t> written_at(const std::filesystem::path& file) {
  struct stat info {};
  if (::stat(file.c_str(), &info) != 0) {
    return std::nullopt;
  }
  return static_cast<std::int64_t>(info.st_mtim.tv_sec) * 1000 + info.st_mtim.tv_nsec / 1'000'000;
}

}  // namespace

std::filesystem::path LogStore::file(const RankKey& key, std::string_view suffix) const {
  return folder_ /
         fmt::format("{}/{}/{}{}", key.job.value(), key.epoch.value(), key.rank.value(), suffix);
}

LogStore::Open* LogStore::open(const RankKey& key) {
  if (const auto it = open_.find(key); it != open_.end()) {
    recent_.splice(recent_.begin(), recent_, it->second.used);
    return &it->second;
  }
  const std::filesystem::path path = file(key);
  Open fresh;
  fresh.log.reset(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fresh.log && errno == ENOENT) {
    if (make_folders(path.parent_path(), 0700).ok()) {
      fresh.log.reset(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    }
  }
  if (!fresh.log) {
    spdlog::warn("{}", errno_error(fmt::format("Cannot open {}", path.string()), errno).message);
    return nullptr;
  }
  struct stat info {};
  ::fstat(fresh.log.get(), &info);
  fresh.size = static_cast<std::uint64_t>(info.st_size);
  if (fresh.size > 0) {
    // What the last server left: its last mark, and the bytes behind it, which have no gap.
    fresh.last = end_mark(key, fresh.size);
    fresh.lines = fresh.last.line;
    fresh.logical = fresh.last.logical;
  }
  if (open_.size() >= kOpenFiles) {
    open_.erase(recent_.back());
    recent_.pop_back();
  }
  recent_.push_front(key);
  fresh.used = recent_.begin();
  return &open_.emplace(key, std::move(fresh)).first->second;
}

void LogStore::mark(const RankKey& key, Open& open, WallTime now, bool force) {
  if (!force && open.size - open.last.offset < kMarkBytes &&
      now.millis - open.last.time_ms < kMarkMillis) {
    return;
  }
  open.last = Mark{now.millis, open.size, open.lines, open.logical};
  std::string bytes = std::exchange(open.held_mark, {});
  const bool first = open.size == 0 && bytes.empty();
  bytes.append(reinterpret_cast<const char*>(&open.last), sizeof(Mark));
  if (first && !force) {
    open.held_mark = std::move(bytes);
    return;
  }
  if (!open.index) {
    open.index.reset(
        ::open(file(key, ".idx").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  }
  (void)!::write(open.index.get(), bytes.data(),
                 bytes.size());  // a lost mark only makes seeking coarser
}

bool LogStore::write(const RankKey& key, Open& open, std::string_view bytes, WallTime now) {
  mark(key, open, now, false);
  while (!bytes.empty()) {
    const ssize_t put =
        ::pwrite(open.log.get(), bytes.data(), bytes.size(), static_cast<off_t>(open.size));
    if (put < 0 && errno == EINTR) {
      continue;
    }
    if (put <= 0) {
      return false;
    }
    const auto count = static_cast<std::size_t>(put);
    open.lines += newlines(bytes.substr(0, count));
    open.size += count;
    bytes.remove_prefix(count);
  }
  return true;
}

std::uint64_t LogStore::append(const RankKey& key, std::uint64_t offset, std::string_view bytes,
                               WallTime now) {
  Open* open = this->open(key);
  if (open == nullptr) {
    return offset + bytes.size();
  }
  if (offset > open->logical) {
    gap(key, open->logical, offset, now);
  }
  if (offset + bytes.size() <= open->logical) {
    return open->logical;
  }
  bytes.remove_prefix(open->logical - offset);
  if (open->lost > 0) {
    const std::string text =
        fmt::format("\n[quad: {} bytes were lost here: the server's disk was full]\n", open->lost);
    const std::uint64_t before = open->size;
    const std::uint64_t lines = open->lines;
    if (write(key, *open, text, now)) {
      open->lost = 0;
      mark(key, *open, now, true);
    } else {
      open->size = before;
      open->lines = lines;
    }
  }
  const std::uint64_t before = open->size;
  if (open->lost > 0 || !write(key, *open, bytes, now)) {
    if (open->lost == 0) {
      spdlog::warn("the output of rank {} cannot be stored: {}", to_string(key),
                   std::strerror(errno));
    }
    const std::uint64_t stored = open->size - before;
    open->lost += bytes.size() - stored;
    bytes_taken_ += stored;
    bytes_lost_ += bytes.size() - stored;
    open->logical += bytes.size();
    mark(key, *open, now, true);
  } else {
    open->logical += bytes.size();
    bytes_taken_ += bytes.size();
  }
  notify(key);
  return open->logical;
}

void LogStore::gap(const RankKey& key, std::uint64_t from, std::uint64_t to, WallTime now) {
  Open* open = this->open(key);
  if (open == nullptr || to <= open->logical) {
    return;
  }
  const std::uint64_t start = std::max(from, open->logical);
  const std::string text = fmt::format(
      "\n[quad: {} bytes were lost here: they came faster than they could be kept]\n", to - start);
  write(key, *open, text, now);
  bytes_lost_ += to - start;
  open->logical = to;
  mark(key, *open, now, true);
  notify(key);
}

std::uint64_t LogStore::end(const RankKey& key) {
  if (size(key) == 0) {
    return open_.contains(key) ? open_.at(key).logical
                               : 0;  // no files for a rank that prints nothing
  }
  const Open* open = this->open(key);
  return open == nullptr ? 0 : open->logical;
}

void LogStore::close(const RankKey& key) {
  if (const auto it = open_.find(key); it != open_.end()) {
    recent_.erase(it->second.used);
    open_.erase(it);
  }
  notify(key);
}

std::uint64_t LogStore::size(const RankKey& key) const {
  if (const auto it = open_.find(key); it != open_.end()) {
    return it->second.size;
  }
  std::error_code failure;
  const auto size = std::filesystem::file_size(file(key), failure);
  return failure ? 0 : size;
}

Result<std::string> LogStore::read(const RankKey& key, std::uint64_t offset,
                                   std::size_t limit) const {
  const std::filesystem::path path = file(key);
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    return errno == ENOENT ? Result<std::string>(std::string())
                           : Result<std::string>(
                                 errno_error(fmt::format("Cannot read {}", path.string()), errno));
  }
  std::string bytes(limit, '\0');
  const ssize_t got = ::pread(fd.get(), bytes.data(), limit, static_cast<off_t>(offset));
  bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return bytes;
}

std::uint64_t LogStore::lines(const RankKey& key) const {
  const std::uint64_t end = size(key);
  if (end == 0) {
    return 0;
  }
  const auto open = open_.find(key);
  const std::uint64_t ended = open != open_.end() ? open->second.lines : end_mark(key, end).line;
  const auto last = read(key, end - 1, 1);
  return ended + (last.ok() && *last == "\n" ? 0 : 1);
}

std::uint64_t LogStore::tail(const RankKey& key, std::uint64_t lines, std::uint64_t all) const {
  return lines == 0 ? size(key) : lines >= all ? 0 : seek_line(key, all - lines + 1);
}

LogStore::Stretch LogStore::stretch(const RankKey& key, std::uint64_t at) const {
  const Neighbours near = find_marks(key, [&](const Mark& one) { return one.offset <= at; });
  Stretch found{0, near.after ? near.after->offset : size(key)};
  const auto open = open_.find(key);
  if (near.before) {
    found.time_ms = near.before->time_ms;
  } else if (near.after) {
    found.time_ms = near.after->time_ms;
  } else if (open != open_.end() && open->second.size > 0) {
    found.time_ms = open->second.last.time_ms;
  } else {
    found.time_ms = written_at(file(key)).value_or(0);
  }
  return found;
}

LogStore::Neighbours LogStore::find_marks(const RankKey& key,
                                          const std::function<bool(const Mark&)>& is_before) const {
  Neighbours found;
  const UniqueFd fd(::open(file(key, ".idx").c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (!fd || ::fstat(fd.get(), &info) != 0) {
    return found;
  }
  auto low = std::uint64_t{0};
  auto high = static_cast<std::uint64_t>(info.st_size) / sizeof(Mark);
  while (low < high) {
    const std::uint64_t middle = low + (high - low) / 2;
    Mark mark;
    if (::pread(fd.get(), &mark, sizeof mark, static_cast<off_t>(middle * sizeof mark)) !=
        static_cast<ssize_t>(sizeof mark)) {
      break;
    }
    if (is_before(mark)) {
      found.before = mark;
      low = middle + 1;
    } else {
      found.after = mark;
      high = middle;
    }
  }
  return found;
}

LogStore::Mark LogStore::end_mark(const RankKey& key, std::uint64_t size) const {
  // After a power cut the index may be ahead of the log.
  Mark at =
      find_marks(key, [&](const Mark& one) { return one.offset <= size; }).before.value_or(Mark{});
  while (at.offset < size) {
    const auto piece = read(key, at.offset, std::min<std::uint64_t>(size - at.offset, 1U << 20U));
    if (!piece.ok() || piece->empty()) {
      break;
    }
    at.line += newlines(*piece);
    at.offset += piece->size();
    at.logical += piece->size();
  }
  return at;
}

std::uint64_t LogStore::seek_time(const RankKey& key, WallTime time) const {
  // A mark stands for what came in the 200 ms after it as well, so the one before may hold bytes of
  // this time.
  const std::int64_t earliest = time.millis - kMarkMillis;
  const Neighbours near = find_marks(key, [&](const Mark& one) { return one.time_ms < earliest; });
  if (!near.before && !near.after) {
    // All of it came at once: in the 200 ms before the file was last written.
    const auto written = written_at(file(key));
    return written && *written + kMarkMillis >= time.millis ? 0 : size(key);
  }
  // What lies before the first mark may be of any time.
  return !near.before ? 0 : !near.after ? size(key) : near.after->offset;
}

std::uint64_t LogStore::seek_line(const RankKey& key, std::uint64_t line) const {
  if (line <= 1) {
    return 0;
  }
  const std::uint64_t wanted = line - 1;  // newlines before it
  // A mark with that many newlines before it may lie inside the line: begin before the last of
  // them.
  const Mark from =
      find_marks(key, [&](const Mark& one) { return one.line < wanted; }).before.value_or(Mark{});
  std::uint64_t at = from.offset;
  std::uint64_t passed = from.line;
  for (;;) {
    const auto piece = read(key, at, 256 * 1024);
    if (!piece.ok() || piece->empty()) {
      return at;
    }
    for (std::size_t i = 0; i < piece->size(); ++i) {
      if ((*piece)[i] == '\n' && ++passed == wanted) {
        return at + i + 1;
      }
    }
    at += piece->size();
  }
}

std::uint64_t LogStore::watch(const RankKey& key, std::function<void()> callback) {
  watchers_[key].emplace(++last_watcher_, std::move(callback));
  return last_watcher_;
}

void LogStore::unwatch(const RankKey& key, std::uint64_t watcher) {
  if (const auto it = watchers_.find(key); it != watchers_.end()) {
    it->second.erase(watcher);
    if (it->second.empty()) {
      watchers_.erase(it);
    }
  }
}

void LogStore::notify(const RankKey& key) {
  if (const auto it = watchers_.find(key); it != watchers_.end()) {
    for (const auto& [number, callback] : it->second) {
      callback();
    }
  }
}

}  // namespace quad::server
