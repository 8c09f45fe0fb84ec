#include "runner/progress.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

namespace quad::runner {
namespace {

constexpr std::size_t kLongestLine = 64U << 10U;
constexpr std::size_t kMostMetrics = 64;
constexpr std::uint64_t kReadAtOnce = 1U << 20U;

// Python writes NaN, Infinity and -Infinity, which are no JSON: they become null. Text inside
// strings stays.
std::string without_nan(std::string_view line) {
  std::string out;
  out.reserve(line.size());
  bool inside = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (inside) {
      out += c;
      if (c == '\\' && i + 1 < line.size()) {
        out += line[++i];
      } else if (c == '"') {
        inside = false;
      }
      continue;
    }
    bool replaced = false;
    for (const std::string_view word :
         {"NaN", "-Infinity", "Infinity", "-NaN", "nan", "-inf", "inf"}) {
      if (line.substr(i).starts_with(word)) {
        out += "null";
        i += word.size() - 1;
        replaced = true;
        break;
      }
    }
    if (!replaced) {
      inside = c == '"';
      out += c;
    }
  }
  return out;
}

std::optional<double> as_number(const json::value& value) {
  std::optional<double> number;
  if (value.is_double()) {
    number = value.get_double();
  } else if (value.is_int64()) {
    number = static_cast<double>(value.get_int64());
  } else if (value.is_uint64()) {
    number = static_cast<double>(value.get_uint64());
  }
  return number && std::isfinite(*number) ? number : std::nullopt;
}

std::int64_t as_count(const json::value& value) {
  const auto number = as_number(value);
  return number && *number >= 0 && *number < 9e18 ? static_cast<std::int64_t>(*number) : -1;
}

}  // namespace

std::optional<Progress> parse_progress(std::string_view line) {
  line = trim(line);
  if (!line.starts_with('{')) {
    return std::nullopt;
  }
  auto parsed = parse_json_object(without_nan(line), 8);
  if (!parsed.ok()) {
    return std::nullopt;
  }
  Progress progress;
  const auto add_metric = [&](std::string_view name, const json::value& value) {
    const auto number = as_number(value);
    if (number && progress.metrics.size() < kMostMetrics && name.size() <= 200) {
      progress.metrics.push_back({std::string(name), *number});
    }
  };
  for (const auto& member : parsed.value()) {
    const std::string_view key = member.key();
    if (key == "step" || key == "global_step") {
      progress.step = as_count(member.value());
    } else if (key == "total" || key == "total_steps" || key == "max_steps") {
      progress.total = as_count(member.value());
    } else if (key == "metrics" && member.value().is_object()) {
      for (const auto& metric : member.value().get_object()) {
        add_metric(metric.key(), metric.value());
      }
    } else {
      add_metric(key, member.value());
    }
  }
  if (progress.step < 0 && progress.total < 0 && progress.metrics.empty()) {
    return std::nullopt;
  }
  return progress;
}

std::optional<Progress> ProgressTail::poll() {
  const UniqueFd fd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
  struct stat info {};
  if (!fd || ::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return std::nullopt;
  }
  const auto size = static_cast<std::uint64_t>(info.st_size);
  if (info.st_ino != inode_ || size < offset_) {
    inode_ = info.st_ino;
    offset_ = 0;
    partial_.clear();
    skipping_ = false;
  }
  if (size == offset_) {
    return std::nullopt;
  }
  if (size - offset_ > kReadAtOnce) {
    offset_ = size - kReadAtOnce;  // only the newest counts
    partial_.clear();
    skipping_ = true;
  }
  std::string bytes(static_cast<std::size_t>(size - offset_), '\0');
  const ssize_t got = ::pread(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset_));
  if (got <= 0) {
    return std::nullopt;
  }
  bytes.resize(static_cast<std::size_t>(got));
  offset_ += static_cast<std::uint64_t>(got);
  partial_ += bytes;
  if (skipping_) {
    const std::size_t end = partial_.find('\n');
    partial_.erase(0, end == std::string::npos ? end : end + 1);
    skipping_ = end == std::string::npos;
  }
  const std::size_t last = partial_.rfind('\n');
  std::optional<Progress> newest;
  if (last != std::string::npos) {
    const std::string_view whole = std::string_view(partial_).substr(0, last);
    const auto lines = split(whole, '\n');
    for (auto line = lines.rbegin(); line != lines.rend() && !newest; ++line) {
      newest = parse_progress(*line);
    }
    partial_.erase(0, last + 1);
  }
  if (partial_.size() > kLongestLine) {
    partial_.clear();
    skipping_ = true;
  }
  return newest;
}

}  // namespace quad::runner
