#include "runner/install.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>
#include <thread>

#include "base/file.h"
#include "base/text.h"

namespace quad::runner {

namespace fs = std::filesystem;

namespace {

constexpr mode_t kOpenToAll = 0777;
constexpr mode_t kWrittenByAll = 0666;
constexpr const char* kAlive = "alive";

Status copy(int from, int to) {
  std::array<char, 64UL << 10U> piece{};
  while (true) {
    const ssize_t got = ::read(from, piece.data(), piece.size());
    if (got == 0) {
      return {};
    }
    if (got > 0) {
      QUAD_TRY(write_all(to, {piece.data(), static_cast<std::size_t>(got)}));
    } else if (errno != EINTR) {
      return errno_error("Cannot read", errno);
    }
  }
}

/// The whole file or none. Not synced: when the node goes down, the pod is lost with it, and each
/// start of a pod would wait for the disk.
Status bring(const fs::path& from, const fs::path& to, mode_t mode) {
  const UniqueFd source(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
  if (!source) {
    return errno_error(fmt::format("Cannot read {}", from.string()), errno);
  }
  const fs::path temporary = fmt::format("{}.tmp-{}", to.string(), random_hex(6));
  const auto failed = [&](Error why) {
    ::unlink(temporary.c_str());
    return why;
  };
  UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (!fd) {
    return errno_error(fmt::format("Cannot create {}", to.string()), errno);
  }
  if (auto copied = copy(source.get(), fd.get()); !copied.ok()) {
    return failed(error(copied.error().code, fmt::format("Cannot copy {} to {}: {}", from.string(),
                                                         to.string(), copied.error().message)));
  }
  if (::fchmod(fd.get(), mode) != 0) {  // whatever the umask was
    return failed(errno_error(fmt::format("Cannot set the mode of {}", to.string()), errno));
  }
  fd.reset();  // a program that somebody writes to cannot be run
  if (::rename(temporary.c_str(), to.c_str()) != 0) {
    return failed(errno_error(fmt::format("Cannot create {}", to.string()), errno));
  }
  return {};
}

/// A folder that everybody may write to. One that somebody else has made so is as good.
Status open_to_all(const fs::path& folder) {
  QUAD_TRY(make_folders(folder, kOpenToAll));
  struct stat facts {};
  if (::stat(folder.c_str(), &facts) == 0 && (facts.st_mode & kOpenToAll) == kOpenToAll) {
    return {};
  }
  if (::chmod(folder.c_str(), kOpenToAll) != 0) {
    return errno_error(fmt::format("Cannot set the mode of {}", folder.string()), errno);
  }
  return {};
}

/// The reader's end. Opened before anybody can write, and without waiting for one: until the first
/// writer has come and gone there is no hang-up on it.
Result<UniqueFd> make_alive(const fs::path& rank_folder) {
  const fs::path path = rank_folder / kAlive;
  if (::mkfifo(path.c_str(), kWrittenByAll) == 0) {
    if (::chmod(path.c_str(), kWrittenByAll) != 0) {  // whatever the umask was
      return errno_error(fmt::format("Cannot set the mode of {}", path.string()), errno);
    }
  } else if (errno != EEXIST) {
    return errno_error(fmt::format("Cannot create {}", path.string()), errno);
  }
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!fd) {
    return errno_error(fmt::format("Cannot open {}", path.string()), errno);
  }
  return fd;
}

Status wait_for_hang_up(int fd) {
  std::array<char, 256> nothing{};
  while (true) {
    pollfd one{.fd = fd, .events = POLLIN, .revents = 0};
    if (::poll(&one, 1, -1) < 0) {
      if (errno == EINTR) {
        continue;
      }
      return errno_error("Cannot wait for the rank", errno);
    }
    if ((one.revents & POLLIN) != 0) {  // no rank writes; a task that does is not listened to
      (void)!::read(fd, nothing.data(), nothing.size());
    } else if (one.revents != 0) {
      return {};
    }
  }
}

void end_at_signals() {
  struct sigaction action {};
  action.sa_handler = [](int) { ::_exit(0); };
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGINT, &action, nullptr);
}

}  // namespace

Status install(const fs::path& folder, const fs::path& from) {
  const fs::path rank_folder = folder / "rank";
  QUAD_TRY(open_to_all(rank_folder));
  QUAD_TRY(bring("/proc/self/exe", folder / "quad-runner", 0755));
  std::error_code missing;
  if (fs::exists(from / "ca.pem", missing)) {
    QUAD_TRY(bring(from / "ca.pem", rank_folder / "ca.pem", 0644));
  }
  // The last of all: wait_until_installed() looks for it.
  return bring(from / "start.json", rank_folder / "start.json", 0644);
}

Status keep(const fs::path& folder, const fs::path& from) {
  end_at_signals();
  const fs::path rank_folder = folder / "rank";
  QUAD_TRY(open_to_all(rank_folder));
  QUAD_ASSIGN(const UniqueFd alive, make_alive(rank_folder));
  QUAD_TRY(install(folder, from));
  return wait_for_hang_up(alive.get());
}

Status wait_until_installed(const fs::path& folder, Millis limit) {
  constexpr std::chrono::milliseconds kLook{3};
  const fs::path last = folder / "rank" / "start.json";
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (::access(last.c_str(), F_OK) != 0) {
    if (std::chrono::steady_clock::now() >= deadline) {
      return error(ErrorCode::kTimeout, fmt::format("{} has not come", last.string()));
    }
    std::this_thread::sleep_for(kLook);
  }
  return {};
}

UniqueFd tell_alive(const fs::path& rank_folder) {
  // Without a reader there is nobody to tell.
  return UniqueFd(::open((rank_folder / kAlive).c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
}

}  // namespace quad::runner
