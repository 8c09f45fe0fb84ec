#include "engine/local/rank_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/json.h"
#include "base/text.h"
#include "job/record.h"

namespace quad::engine {
namespace {

namespace fs = std::filesystem;

constexpr const char* kStarted = "started";
constexpr std::size_t kLongestRecord = 8192;

// A whole line, or it is not there yet.
std::optional<std::string_view> take_line(std::string_view& text) {
  const std::size_t end = text.find('\n');
  if (end == std::string_view::npos) {
    return std::nullopt;
  }
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end + 1);
  return line;
}

StartRecord parse_start_record(std::string_view text, const std::string& boot_id) {
  StartRecord record;
  const auto boot = take_line(text);
  const auto stat = boot ? take_line(text) : std::nullopt;
  if (const auto process = stat ? parse_stat(*stat) : std::nullopt) {
    record.state = StartRecord::State::kStarted;
    record.process = *process;
    record.this_boot = *boot == boot_id;
  }
  return record;
}

}  // namespace

std::optional<RankKey> parse_rank_key(std::string_view name) {
  const auto parts = split(name, '-');
  std::array<std::int64_t, 3> numbers{};
  if (parts.size() != numbers.size()) {
    return std::nullopt;
  }
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const auto number = parse_number(parts[i]);
    if (!number) {
      return std::nullopt;
    }
    numbers[i] = *number;
  }
  const RankKey key{JobId(numbers[0]), Epoch(static_cast<std::int32_t>(numbers[1])),
                    Rank(static_cast<std::int32_t>(numbers[2]))};
  // Only a name that Quad would write itself: "01-1-0" and numbers that are cut off are somebody
  // else's.
  return to_string(key) == name ? std::optional(key) : std::nullopt;
}

Status prepare_rank_folder(const fs::path& folder, const StartFile& start) {
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return errno_error(fmt::format("Cannot make {}", folder.string()), errno);
  }
  json::object object;
  object["server"] = start.server;
  object["ca"] = start.ca;
  object["token"] = start.token;
  object["job"] = start.key.job.value();
  object["epoch"] = start.key.epoch.value();
  object["rank"] = start.key.rank.value();
  object["node"] = start.node.value();
  object["address"] = start.address;
  object["gpus"] = json::array(start.gpus.begin(), start.gpus.end());
  object["gpu_env"] = start.gpu_env;
  object["cpu_milli"] = start.cpu_milli;
  object["cpus"] = json::array(start.cpus.begin(), start.cpus.end());
  object["memory_bytes"] = start.memory_bytes;
  object["hot"] = start.hot;
  object["limits"] =
      json::object{{"spool_bytes", start.spool_bytes}, {"processes", start.processes}};
  const fs::path path = folder / "start.json";
  const UniqueFd fd(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) {
    return errno_error(fmt::format("Cannot write {}", path.string()), errno);
  }
  return write_all(fd.get(), to_text(object));
}

std::vector<int> read_cpus(const fs::path& folder) {
  const auto text = read_regular_file(folder / "start.json", 1U << 20U);
  const auto object =
      text.ok() ? parse_json_object(text.value()) : Result<json::object>(text.error());
  std::vector<int> cpus;
  if (const json::array* array = object.ok() ? get_array(object.value(), "cpus") : nullptr) {
    for (const json::value& cpu : *array) {
      if (cpu.is_int64()) {
        cpus.push_back(static_cast<int>(cpu.get_int64()));
      }
    }
  }
  return cpus;
}

std::vector<fs::path> read_control_groups(const fs::path& folder, const RankKey& key) {
  std::vector<fs::path> groups;
  const std::string text = read_regular_file(folder / "cgroup", 16'384).value_or("");
  for (const std::string_view line : split(text, '\n')) {
    // The rank may have written there what it liked; empty folders of this name are all that it can
    // lose.
    if (fs::path group = line;
        group.filename().string().starts_with("quad-" + to_string(key) + "-")) {
      groups.push_back(std::move(group));
    }
  }
  return groups;
}

Result<StartRecord> read_start_record(const fs::path& folder, const std::string& boot_id) {
  const fs::path path = folder / kStarted;
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd) {
    if (errno == ENOENT || errno == ENOTDIR) {
      return StartRecord{};
    }
    return errno_error(fmt::format("Cannot read {}", path.string()), errno);
  }
  // The lock is asked about first: whoever lets go of it has written the line before.
  const bool locked = ::flock(fd.get(), LOCK_SH | LOCK_NB) != 0;
  if (locked && errno != EWOULDBLOCK) {
    return errno_error(fmt::format("Cannot lock {}", path.string()), errno);
  }
  QUAD_ASSIGN(StartRecord record, read_start_record(fd, boot_id));
  if (record.state == StartRecord::State::kNotStarted && locked) {
    record.state = StartRecord::State::kStarting;
  }
  return record;
}

Result<StartRecord> read_start_record(const UniqueFd& file, const std::string& boot_id) {
  std::string text(kLongestRecord, '\0');
  const ssize_t got = ::pread(file.get(), text.data(), text.size(), 0);
  if (got < 0) {
    return errno_error("Cannot read the record of a start", errno);
  }
  text.resize(static_cast<std::size_t>(got));
  return parse_start_record(text, boot_id);
}

Result<UniqueFd> create_start_record(const fs::path& folder, const std::string& boot_id) {
  const fs::path path = folder / kStarted;
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) {
    return errno_error(fmt::format("Cannot write {}", path.string()), errno);
  }
  QUAD_ASSIGN(const StartRecord record, read_start_record(folder, boot_id));
  if (record.state == StartRecord::State::kStarted) {
    return error(ErrorCode::kExists,
                 fmt::format("A runner was already started in {}", folder.string()));
  }
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) {
      return errno_error(fmt::format("Cannot lock {}", path.string()), errno);
    }
    return error(ErrorCode::kUnavailable,
                 fmt::format("A runner is being started in {}", folder.string()));
  }
  if (::ftruncate(fd.get(), 0) != 0) {
    return errno_error(fmt::format("Cannot write {}", path.string()), errno);
  }
  QUAD_TRY(write_all(fd.get(), boot_id + "\n"));
  return fd;
}

Result<std::optional<job::RankEnd>> read_result(const fs::path& folder) {
  constexpr std::uint64_t kLongest = 1U << 20U;
  const auto text = read_regular_file(folder / "result.json", kLongest);
  if (!text.ok()) {
    // One that is too long is not from a runner.
    if (text.error().code != ErrorCode::kIo) {
      return std::optional<job::RankEnd>();
    }
    return text.error();
  }
  const auto object = parse_json_object(*text);
  if (!object.ok()) {
    return std::optional<job::RankEnd>();
  }
  job::RankEnd end = job::rank_end_from_json(*object);
  if (job::to_string(end.how) != get_string(*object, "how")) {
    // An end of no known kind must not pass for a success.
    return std::optional<job::RankEnd>();
  }
  if (end.at.millis == 0) {
    end.at = WallTime{get_int(*object, "at_ms")};
  }
  return std::optional(std::move(end));
}

}  // namespace quad::engine
