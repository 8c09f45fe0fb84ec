// runner/rank_init.h
//
// The small process that every process of a rank descends from: the first process of the rank's own
// PID namespace where that is permitted, else a child subreaper. It starts setup and run when told,
// adopts and reaps orphans, and takes everything with it when it ends: because the runner says so,
// because the run is over, or because the runner is gone. So nothing escapes by setsid or a double
// fork, and nothing outlives a runner that was killed.
//
// A stop's SIGTERM goes to every process at once if the task says so; else to the script first,
// that is, to its shell, what that has started, and so on below further shells. What it has started
// in turn (workers of a data loader, ranks of a launcher, what setup left running) is for the
// script to end, and still there while it saves. When all that were told have ended, those that are
// left at the top are told, so that a launcher which dies of the signal does not keep it from what
// it launched. No process is told twice.
//
// It is a fork of the runner without exec, so it needs no file of its own in the image. rank_init()
// runs in the child and never returns; the records are what goes over its socket.

#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace quad::runner {

enum class Isolation : std::uint8_t {
  kNamespace,      ///< PID and mount namespace
  kUserNamespace,  ///< the same inside a user namespace that maps only the own user
  kSubreaper,      ///< neither is permitted: descent is tracked by the subreaper
};

/// What a process that brings workdir and mounts has from the runner.
struct BringFiles {
  int output = -1;  ///< a worker's (worker.h)
  int lists = -1;   ///< see Bringing in mounts.h, as the next
  int blobs = -1;
};

struct InitOptions {
  Isolation isolation = Isolation::kNamespace;
  std::uint32_t uid = 0;  ///< as outside of the user namespace
  std::uint32_t gid = 0;
  std::vector<std::string> environment;  ///< of the shell, but for SHELL
  std::string setup_script;
  std::string run_script;
  std::string home;  ///< where the shell starts
  bool stop_signal_to_all = false;
  std::vector<std::filesystem::path> groups;  ///< with its limits (cgroup.h)
  std::uint64_t processes = 0;                ///< the bound where no group holds it to one; 0: none
  /// What kBring does, in a process of its own.
  std::function<void(const BringFiles& files)> bring;
};

/// To the init.
enum class InitCommand : char {
  kSetup = 'S',      ///< start the setup script
  kRun = 'R',        ///< start the run script
  kTerminate = 'T',  ///< SIGTERM, as below; when the script ends, the others have until kKill
  kKill = 'K',       ///< SIGKILL to every process, and end
  kUsage = 'U',      ///< report kUsage
  kSession = 'V',  ///< start a session (remote_session.h), whose order is the file that comes along
  kBring = 'B',    ///< bring workdir and mounts; the files that come along are BringFiles
};

/// From the init: one record each.
struct InitReport {
  enum class Kind : char {
    kReady = 'r',       ///< the namespaces are made; value is why not all limits hold, or 0
    kFailed = 'f',      ///< they cannot be; value is an errno. The init has ended
    kNoShell = 'e',     ///< no shell can be started; value is an errno, 0 if the image has none
    kPlainShell = 's',  ///< the scripts run under sh, as the image has no bash
    kExited = 'x',      ///< the script has ended; value is its wait status
    kUsage = 'u',
    kSession = 'v',  ///< of each session in turn; value is why there is no process for it, or 0
  };
  Kind kind = Kind::kReady;
  std::int32_t value = 0;
  std::uint64_t rss_bytes = 0;
  std::uint64_t cpu_millis = 0;  ///< since the beginning, of all processes
};

inline constexpr int kInitControl = 3;  ///< the init's end of the socket
inline constexpr int kInitOutput = 4;   ///< where scripts write to
inline constexpr int kInitNull = 5;

[[noreturn]] void rank_init(const InitOptions& options);

}  // namespace quad::runner
