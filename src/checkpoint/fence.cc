#include "checkpoint/fence.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <string>
#include <string_view>
#include <thread>

#include "base/file.h"
#include "base/fnv.h"

namespace quad::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kRecord = 64;
constexpr std::size_t kCopies = 2;

// A line that a person can read with `cat`: "quad-fence <epoch> <milliseconds> <checksum>".
std::string render(const Fence& fence) {
  std::string text =
      fmt::format("quad-fence {:010} {:015} ", fence.epoch.value(), fence.written_at.millis);
  text += fmt::format("{:016x}", fnv1a(text));
  text.resize(kRecord - 1, ' ');
  return text + "\n";
}

std::optional<Fence> parse(std::string_view record) {
  constexpr std::string_view kMagic = "quad-fence ";
  if (record.size() != kRecord || !record.starts_with(kMagic)) {
    return std::nullopt;
  }
  std::int32_t epoch = 0;
  std::int64_t millis = 0;
  const char* const begin = record.data() + kMagic.size();
  std::from_chars(begin, begin + 10, epoch);
  std::from_chars(begin + 11, begin + 26, millis);
  const Fence fence{Epoch(epoch), WallTime{millis}};
  // Only what would be written exactly so is a record.
  return epoch > 0 && render(fence) == record ? std::optional(fence) : std::nullopt;
}

Result<std::optional<Fence>> read_from(int fd) {
  std::array<char, kRecord * kCopies> bytes{};
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t got =
        ::pread(fd, bytes.data() + filled, bytes.size() - filled, static_cast<off_t>(filled));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return errno_error("Cannot read the fence", errno);
    }
    if (got == 0) {
      break;
    }
    filled += static_cast<std::size_t>(got);
  }
  std::optional<Fence> best;
  for (std::size_t i = 0; i < kCopies && (i + 1) * kRecord <= filled; ++i) {
    const auto fence = parse(std::string_view(bytes.data() + i * kRecord, kRecord));
    if (fence && (!best || fence->epoch > best->epoch)) {
      best = fence;
    }
  }
  return best;
}

Status write_at(int fd, std::string_view bytes, off_t at) {
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(fd, bytes.data(), bytes.size(), at);
    if (put < 0 && errno == EINTR) {
      continue;
    }
    if (put < 0) {
      return errno_error("Cannot write the fence", errno);
    }
    bytes.remove_prefix(static_cast<std::size_t>(put));
    at += put;
  }
  if (::fsync(fd) != 0) {
    return errno_error("Cannot sync the fence", errno);
  }
  return {};
}

// Waits up to two seconds for other writers. Where flock does not exist it goes on: writers are one
// rank 0 for each epoch, and the check after the write catches what is left.
void lock(int fd) {
  for (int tries = 0; tries < 100; ++tries) {
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0 || (errno != EWOULDBLOCK && errno != EINTR)) {
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace

fs::path fence_path(const fs::path& job_folder) {
  return job_folder / "fence";
}

Result<std::optional<Fence>> read_fence(const fs::path& job_folder) {
  const fs::path path = fence_path(job_folder);
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd && errno == ENOENT) {
    return std::optional<Fence>();
  }
  if (!fd) {
    return errno_error(fmt::format("Cannot open the fence {}", path.string()), errno);
  }
  return read_from(fd.get());
}

Status raise_fence(const fs::path& job_folder, Epoch epoch, WallTime now) {
  if (epoch.value() < 1) {
    return error(ErrorCode::kInvalid, "A fence is raised to an epoch of 1 or more");
  }
  QUAD_TRY(make_folders(job_folder));
  const fs::path path = fence_path(job_folder);
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644));
  if (!fd) {
    return errno_error(fmt::format("Cannot open the fence {}", path.string()), errno);
  }
  lock(fd.get());  // given back by closing
  // A second round when an unlocked writer of an older epoch came in between.
  for (int round = 0; round < 3; ++round) {
    QUAD_ASSIGN(const std::optional<Fence> stands, read_from(fd.get()));
    if (stands && stands->epoch > epoch) {
      return error(ErrorCode::kExists,
                   fmt::format("Attempt {} has taken over, so attempt {} must leave",
                               stands->epoch.value(), epoch.value()),
                   path.string());
    }
    if (stands && stands->epoch == epoch && round > 0) {
      return sync_folder(job_folder);
    }
    const std::string record = render(Fence{epoch, now});
    for (std::size_t i = 0; i < kCopies; ++i) {
      QUAD_TRY(write_at(fd.get(), record, static_cast<off_t>(i * kRecord)));
    }
  }
  return error(ErrorCode::kUnavailable, "The fence does not keep what is written to it",
               path.string());
}

}  // namespace quad::checkpoint
