#include "runner/rank_init.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/file.h"
#include "base/text.h"
#include "runner/child.h"
#include "runner/confine.h"
#include "runner/process_table.h"
#include "runner/remote_session.h"
#include "runner/shell.h"

namespace quad::runner {
namespace {

constexpr std::size_t kMostFiles = 3;  // that come along with a command

void on_child(int /*signal*/) {}  // only there so that ppoll is woken

class RankInit {
 public:
  explicit RankInit(const InitOptions& options) : options_(options) {}

  [[noreturn]] void serve() {
    prepare_signals();
    if (const int failure = isolate(); failure != 0) {
      report(InitReport::Kind::kFailed, failure);
      ::_exit(1);
    }
    report(InitReport::Kind::kReady, not_limited_);
    for (;;) {
      const bool childless = reap();
      if (over_ && (!stopping_ || childless)) {
        end();
      }
      if (stopping_ && main_ == 0 && !options_.stop_signal_to_all) {
        tell_the_top();
      }
      pollfd control{kInitControl, POLLIN, 0};
      if (::ppoll(&control, 1, nullptr, &unblocked_) > 0) {
        obey();
      }
    }
  }

 private:
  void prepare_signals() {
    struct sigaction action {};
    action.sa_handler = on_child;
    ::sigaction(SIGCHLD, &action, nullptr);
    // What the runner is told is none of the init's business; it ends with the runner.
    ::signal(SIGTERM, SIG_IGN);
    ::signal(SIGINT, SIG_IGN);
    ::signal(SIGHUP, SIG_IGN);
    ::signal(SIGPIPE, SIG_IGN);
    sigemptyset(&unblocked_);
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    ::sigprocmask(SIG_SETMASK, &blocked, nullptr);
  }

  // 0, or why not.
  int isolate() {
    ::prctl(PR_SET_NAME, "quad-rank");
    not_limited_ = join_groups(options_.groups);
    hide_groups_above();
    limit_processes_of_user(options_.processes);
    if (options_.isolation == Isolation::kSubreaper) {
      // Here the end of the control socket says that the runner is gone: there is a sweep to do
      // then.
      return ::prctl(PR_SET_CHILD_SUBREAPER, 1) == 0 ? 0 : errno;
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (options_.isolation == Isolation::kUserNamespace) {
      // Else these files would be root's.
      ::prctl(PR_SET_DUMPABLE, 1);
      write_to("/proc/self/setgroups", "deny");
      if (!write_to("/proc/self/uid_map", fmt::format("{0} {0} 1", options_.uid)) ||
          !write_to("/proc/self/gid_map", fmt::format("{0} {0} 1", options_.gid))) {
        return errno != 0 ? errno : EPERM;
      }
      ::prctl(PR_SET_DUMPABLE, 0);
    }
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0 ||
        ::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
      return errno;
    }
    protect_kernel_files(options_.groups, options_.uid == 0);
    if (options_.uid == 0) {
      const int failure = give_up_capabilities();
      not_limited_ = not_limited_ != 0 ? not_limited_ : failure;
    }
    return 0;
  }

  static bool write_to(const char* path, std::string_view text) {
    const UniqueFd fd(::open(path, O_WRONLY | O_CLOEXEC));
    return fd && ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
  }

  static void report(InitReport::Kind kind, int value, std::uint64_t rss = 0,
                     std::uint64_t cpu = 0) {
    const InitReport record{kind, value, rss, cpu};
    (void)::send(kInitControl, &record, sizeof record, MSG_NOSIGNAL);
  }

  // Reaps what has ended. True if no child is left.
  bool reap() {
    for (;;) {
      int status = 0;
      const pid_t child = ::waitpid(-1, &status, WNOHANG);
      if (child < 0 && errno == EINTR) {
        continue;
      }
      if (child <= 0) {
        return child < 0;
      }
      if (child == main_) {
        main_ = 0;
        over_ = running_;
        report(InitReport::Kind::kExited, status);
        if (stopping_) {
          over_ = true;
        }
      }
    }
  }

  void obey() {
    char command = 0;
    std::array<UniqueFd, kMostFiles> files;
    const ssize_t got = receive(command, files);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
      return;
    }
    if (got <= 0) {
      end();  // the runner is gone
    }
    switch (static_cast<InitCommand>(command)) {
      case InitCommand::kSetup:
        start(options_.setup_script);
        break;
      case InitCommand::kRun:
        running_ = true;
        start(options_.run_script);
        break;
      case InitCommand::kTerminate:
        stopping_ = true;
        over_ = over_ || main_ == 0;
        terminate();
        break;
      case InitCommand::kKill:
        end();
      case InitCommand::kUsage:
        usage();
        break;
      case InitCommand::kSession:
        start_session(files[0]);
        break;
      case InitCommand::kBring:
        if (files[2] && ::fork() == 0) {
          ::prctl(PR_SET_PDEATHSIG, SIGKILL);
          reset_signals();
          keep_only_files({files[0].get(), files[1].get(), files[2].get()});
          options_.bring({3, 4, 5});
          ::_exit(0);
        }
        break;
    }
  }

  // A command, and the files that came along with it.
  static ssize_t receive(char& command, std::array<UniqueFd, kMostFiles>& files) {
    iovec piece{&command, sizeof command};
    alignas(cmsghdr) char control[CMSG_SPACE(kMostFiles * sizeof(int))];
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t got = ::recvmsg(kInitControl, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    const cmsghdr* header = got > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
    if (header != nullptr && header->cmsg_type == SCM_RIGHTS) {
      const std::size_t count =
          std::min<std::size_t>((header->cmsg_len - CMSG_LEN(0)) / sizeof(int), kMostFiles);
      for (std::size_t i = 0; i < count; ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
        files.at(i).reset(fd);
      }
    }
    return got;
  }

  [[nodiscard]] std::string_view path_variable() const {
    constexpr std::string_view kName = "PATH=";
    for (const std::string_view entry : options_.environment) {
      if (entry.starts_with(kName)) {
        return entry.substr(kName.size());
      }
    }
    return {};
  }

  void start(const std::string& script) {
    const std::optional<Shell> shell = find_shell(path_variable());  // setup may have installed one
    if (!shell) {
      report(InitReport::Kind::kNoShell, 0);
      return;
    }
    const std::string variable = "SHELL=" + shell->path;
    std::vector<char*> environment;
    for (const std::string& entry : options_.environment) {
      environment.push_back(const_cast<char*>(entry.c_str()));
    }
    environment.push_back(const_cast<char*>(variable.c_str()));
    environment.push_back(nullptr);
    char interactive[] = "-i";
    std::vector<char*> arguments = {const_cast<char*>(shell->path.c_str())};
    if (shell->is_bash) {
      arguments.push_back(interactive);  // sh would prompt for each line
    } else if (!told_of_sh_) {
      told_of_sh_ = true;
      report(InitReport::Kind::kPlainShell, 0);
    }
    arguments.push_back(const_cast<char*>(script.c_str()));
    arguments.push_back(nullptr);
    volatile int failure = 0;
    const pid_t child = ::vfork();
    if (child == 0) {
      // The parent's memory: nothing but system calls from here on.
      sigset_t none;
      sigemptyset(&none);
      ::sigprocmask(SIG_SETMASK, &none, nullptr);
      for (const int signal : {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGPIPE}) {
        struct sigaction action {};
        action.sa_handler = SIG_DFL;
        ::sigaction(signal, &action, nullptr);
      }
      ::setsid();
      ::dup2(kInitNull, 0);
      ::dup2(kInitOutput, 1);
      ::dup2(kInitNull, 2);
      ::execve(shell->path.c_str(), arguments.data(), environment.data());
      failure = errno;
      ::_exit(127);
    }
    if (child < 0 || failure != 0) {
      report(InitReport::Kind::kNoShell, child < 0 ? errno : failure);
      return;
    }
    main_ = child;
  }

  static void start_session(const UniqueFd& order) {
    const pid_t session = order ? ::fork() : -1;
    if (session == 0) {
      run_remote_session(order.get());
    }
    report(InitReport::Kind::kSession, session > 0 ? 0 : order ? errno : EBADF);
  }

  void terminate() {
    if (!options_.stop_signal_to_all) {
      tell_the_top();
    } else if (options_.isolation != Isolation::kSubreaper) {
      ::kill(-1, SIGTERM);  // everything in the namespace but this process
    } else {
      for (const ProcessFacts& process : descendants_of(::getpid())) {
        ::kill(process.pid, SIGTERM);
      }
    }
  }

  // Tells the script of a stop, and once those that were told have ended, what is left at the top.
  void tell_the_top() {
    std::unordered_multimap<pid_t, pid_t> children;
    std::unordered_set<pid_t> alive;
    for (const ProcessFacts& process : processes_of_rank()) {
      if (process.state != 'Z') {
        children.emplace(process.parent, process.pid);
        alive.insert(process.pid);
      }
    }
    std::erase_if(told_, [&](pid_t process) { return !alive.contains(process); });
    std::vector<pid_t> to_tell;
    if (main_ != 0) {
      to_tell.push_back(main_);
    } else {
      const auto [begin, end] = children.equal_range(::getpid());
      for (auto it = begin; it != end; ++it) {
        if (told_.contains(it->second)) {
          return;
        }
        to_tell.push_back(it->second);
      }
    }
    while (!to_tell.empty()) {
      const pid_t process = to_tell.back();
      to_tell.pop_back();
      if (!told_.insert(process).second) {
        continue;
      }
      ::kill(process, SIGTERM);
      if (is_shell(process)) {
        const auto [begin, end] = children.equal_range(process);
        for (auto it = begin; it != end; ++it) {
          to_tell.push_back(it->second);
        }
      }
    }
  }

  // A shell acts on the signal only when what it waits for has ended.
  static bool is_shell(pid_t process) {
    const std::string name = read_file(fmt::format("/proc/{}/comm", process), 64).value_or("");
    const std::string_view shell = trim(name);
    return shell == "bash" || shell == "sh" || shell == "dash" || shell == "ash" ||
           shell == "busybox" || shell == "zsh" || shell == "ksh";
  }

  [[nodiscard]] std::vector<ProcessFacts> processes_of_rank() const {
    return options_.isolation == Isolation::kSubreaper ? descendants_of(::getpid())
                                                       : all_processes();
  }

  [[noreturn]] void end() {
    if (options_.isolation == Isolation::kSubreaper) {
      // Unlike the end of a namespace this can take a while, so it goes on for a minute at most.
      kill_descendants(6000);
    }
    // The end of a namespace's first process is the end of all in it.
    ::_exit(0);
  }

  void usage() {
    // Reading thousands of processes takes a while, so it is done more seldom then.
    if (skip_usage_ > 0) {
      --skip_usage_;
    } else {
      static const auto kPage = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
      static const auto kTicks = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
      const auto processes = processes_of_rank();
      std::uint64_t pages = 0;
      std::uint64_t ticks = 0;
      for (const ProcessFacts& process : processes) {
        ticks += process.cpu_ticks;
        pages += process.pid == ::getpid() ? 0 : process.rss_pages;
      }
      rss_ = pages * kPage;
      cpu_ = ticks * 1000 / kTicks;
      skip_usage_ = processes.size() / 128;
    }
    report(InitReport::Kind::kUsage, 0, rss_, cpu_);
  }

  const InitOptions& options_;
  sigset_t unblocked_{};
  pid_t main_ = 0;        // the script's shell
  bool running_ = false;  // the run script was started
  bool stopping_ = false;
  std::unordered_set<pid_t> told_;  // of a stop, and alive
  bool over_ = false;               // the last script has ended
  bool told_of_sh_ = false;
  int not_limited_ = 0;  // an errno
  std::size_t skip_usage_ = 0;
  std::uint64_t rss_ = 0;
  std::uint64_t cpu_ = 0;
};

}  // namespace

void rank_init(const InitOptions& options) {
  RankInit(options).serve();
}

}  // namespace quad::runner
