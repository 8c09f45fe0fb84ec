#include "runner/remote_session.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <utility>

#include "base/file.h"
#include "base/json.h"
#include "base/time.h"
#include "runner/child.h"
#include "runner/copy.h"
#include "runner/remote_program.h"
#include "runner/session_carrier.h"
#include "runner/shell.h"
#include "runner/signals.h"
#include "session/pump.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;
using session::kMostStreams;
using session::LocalEnd;
using session::StreamId;

constexpr Millis kConnect{15'000};  // until the server has taken the connection
constexpr Millis kFirstMessage{15'000};
constexpr Millis kHangUp{5'000};     // from SIGHUP to SIGKILL
constexpr Millis kQuietAtEnd{1000};  // how long output is waited for once the program has ended
// For the other end to close once it can have the last bytes. It may stand still (a client that was
// stopped with its pager), so this is long; one that is gone is noticed without it.
constexpr Millis kFarewell{3'600'000};
constexpr Millis kHastyFarewell{2'000};  // in a rank that is being stopped, which waits for it
constexpr Millis kTick{250};
constexpr Millis kConnectPort{20};
constexpr std::size_t kMostArguments = 4096;

/// A connection to a port of the rank's own machine, on its way or open.
Result<UniqueFd> connect_to_port(int port) {
  int failure = ECONNREFUSED;
  for (const char* host : {"127.0.0.1", "::1"}) {
    const std::vector<Address> address = numeric_address(host, std::to_string(port));
    auto fd = begin_connect(address.front());
    if (!fd.ok()) {
      continue;
    }
    // To the own machine it is refused at once, or waits for the one who listens.
    pollfd polled{fd->get(), POLLOUT, 0};
    if (::poll(&polled, 1, static_cast<int>(kConnectPort.count())) > 0) {
      socklen_t size = sizeof failure;
      ::getsockopt(fd->get(), SOL_SOCKET, SO_ERROR, &failure, &size);
      if (failure != 0) {
        continue;
      }
    }
    return std::move(fd).value();
  }
  return errno_error(fmt::format("nothing can be reached at port {}", port), failure);
}

class Session {
 public:
  Session(RemoteSessionOrder order, const Clock& clock)
      : order_(std::move(order)),
        clock_(clock),
        carrier_(options(order_), clock),
        pump_(carrier_, session::kWindow) {}

  void run() {
    if (!carrier_.open(kConnect).ok()) {
      return;
    }
    pump_.on_message = [this](const json::object& message) { take(message); };
    sigset_t unblocked;
    sigemptyset(&unblocked);
    const MonoTime first = clock_.now().mono + kFirstMessage;
    while (!over_) {
      const Status stepped = wait(&unblocked);
      const MonoTime now = clock_.now().mono;
      if (!stepped.ok()) {
        if (!lost_ && stepped.error().code == ErrorCode::kInvalid) {
          dismiss(stepped.error().message, now);
        } else {
          lost_ = gone_ = true;
        }
      }
      gone_ = gone_ || (lost_ && now >= farewell_);
      if (take_end_asked()) {
        stop_reason_ = "the rank is being stopped";
        hasty_ = true;
        farewell_ = std::min(farewell_, now + kHastyFarewell);
      }
      if (!begun_ && !lost_ && now >= first) {
        dismiss(fmt::format("nothing was begun within {}", format_duration(kFirstMessage)), now);
      }
      if (!begun_ && (gone_ || !stop_reason_.empty())) {
        return;
      }
      if (lost_ || !stop_reason_.empty()) {
        hang_up(now);
      }
      reap();
      end_when_done(now);
    }
  }

 private:
  static constexpr timespec kTickTime{0, 250'000'000};

  Status wait(const sigset_t* unblocked) {
    if (gone_) {
      ::ppoll(nullptr, 0, &kTickTime, unblocked);
      return {};
    }
    std::vector<pollfd> none;
    return pump_.step(none, kTick, unblocked);
  }

  /// Nobody is at the other end who could be served: it is told why, and then as if it had gone.
  void dismiss(const std::string& why, MonoTime now) {
    lost_ = hasty_ = true;
    farewell_ = now + kHastyFarewell;
    pump_.dismiss({{"type", "failed"}, {"message", why}, {"code", 1}});
  }

  static ConnectionOptions options(const RemoteSessionOrder& order) {
    ConnectionOptions options;
    if (auto endpoint = parse_endpoint(order.server); endpoint.ok()) {
      options.endpoint = std::move(endpoint).value();
    }
    options.ca = order.ca;
    options.token = order.token;
    options.target = order.target;
    options.protocol = session::kUpgradeProtocol;
    options.frames = session::kFrames;
    options.once = true;
    return options;
  }

  void take(const json::object& message) {
    const std::string_view type = get_string(message, "type");
    if (type == "begin" && !begun_) {
      begun_ = true;
      begin(message);
    } else if (type == "resize" && terminal_) {
      resize_terminal(terminal_.get(), static_cast<int>(get_int(message, "rows", 24)),
                      static_cast<int>(get_int(message, "columns", 80)));
    } else if (type == "signal" && pid_ > 0) {
      const auto number = static_cast<int>(get_int(message, "number"));
      if (number == SIGINT || number == SIGTERM || number == SIGHUP || number == SIGQUIT) {
        ::kill(-pid_, number);
      }
    } else if (type == "connect" && forwards_) {
      connect(static_cast<StreamId>(get_int(message, "stream")),
              static_cast<int>(get_int(message, "port")));
    }
  }

  void begin(const json::object& message) {
    const std::string_view kind = get_string(message, "kind");
    if (!order_.kind.empty() && kind.substr(0, kind.find('_')) != order_.kind) {
      fail(fmt::format("this session was asked for as '{}', and cannot be used as '{}'",
                       order_.kind, kind),
           2);
      return;
    }
    if (kind == "exec" || kind == "shell") {
      begin_program(message, kind == "shell");
    } else if (kind == "forward") {
      forwards_ = true;
      pump_.set_window(session::kForwardWindow);
      pump_.say({{"type", "begun"}});
    } else if (kind == "copy_to" || kind == "copy_from") {
      begin_copy(message, kind == "copy_to");
    } else {
      fail(fmt::format("this runner knows no session of the kind '{}'", kind), 2);
    }
  }

  void begin_program(const json::object& message, bool is_shell) {
    ProgramOptions options;
    options.environment = order_.environment;
    options.folders = {order_.home + "/sky_workdir", order_.home, "/"};
    options.terminal = get_bool(message, "terminal");
    options.rows = static_cast<int>(get_int(message, "rows", 24));
    options.columns = static_cast<int>(get_int(message, "columns", 80));
    if (const std::string_view term = get_string(message, "term");
        options.terminal && !term.empty()) {
      std::erase_if(options.environment,
                    [](const std::string& entry) { return entry.starts_with("TERM="); });
      options.environment.push_back(fmt::format("TERM={}", term));
    }
    const auto shell = find_shell(path_of(options.environment));
    if (shell) {
      options.environment.push_back("SHELL=" + shell->path);
    }
    if (const json::array* words = get_array(message, "arguments");
        words != nullptr && words->size() <= kMostArguments) {
      for (const json::value& word : *words) {
        options.arguments.emplace_back(word.is_string() ? std::string_view(word.get_string()) : "");
      }
    }
    const std::string_view command = get_string(message, "command");
    if (is_shell || !command.empty()) {
      if (!shell) {
        fail("the image has no shell, neither bash nor sh", 127);
        return;
      }
      options.arguments = {shell->path};
      if (!command.empty()) {
        options.arguments.emplace_back("-c");
        options.arguments.emplace_back(command);
      }
    }
    if (options.arguments.empty() || options.arguments.front().empty()) {
      fail("there is no program to run", 2);
      return;
    }
    start(options);
  }

  static std::string path_of(const std::vector<std::string>& environment) {
    for (const std::string& entry : environment) {
      if (entry.starts_with("PATH=")) {
        return entry.substr(5);
      }
    }
    return {};
  }

  void start(const ProgramOptions& options) {
    auto program = start_program(options);
    if (!program.ok()) {
      fail(program.error().message, program.error().code == ErrorCode::kNotFound ? 127 : 126);
      return;
    }
    pid_ = program->pid;
    has_terminal_ = options.terminal;
    if (options.terminal) {
      terminal_ = UniqueFd(::fcntl(program->in.get(), F_DUPFD_CLOEXEC, 3));
      UniqueFd other(::fcntl(program->in.get(), F_DUPFD_CLOEXEC, 3));
      pump_.attach(0, {std::move(program->in), std::move(other), LocalEnd::Kind::kTerminal});
    } else {
      pump_.attach(0, {UniqueFd(), std::move(program->in)});
      pump_.attach(1, {std::move(program->out), UniqueFd()});
      pump_.attach(2, {std::move(program->errors), UniqueFd()});
    }
    json::object begun = std::exchange(begun_message_, {});
    begun["type"] = "begun";
    pump_.say(begun);
  }

  void begin_copy(const json::object& message, bool to) {
    const fs::path home = order_.home;
    const std::string path(get_string(message, "path"));
    const fs::path place = path.empty()             ? home / "sky_workdir"
                           : path == "~"            ? home
                           : path.starts_with("~/") ? home / path.substr(2)
                           : path.starts_with('/')  ? fs::path(path)
                                                    : home / "sky_workdir" / path;
    ProgramOptions options;
    options.environment = order_.environment;
    options.folders = {"/"};
    if (to) {
      const CopySource source = copy_source(message);
      options.work = [place, path, source] {
        const ByteSource bytes = read_pieces(0);
        return tell_copy(receive_copy(bytes, place, path.ends_with('/'), source));
      };
    } else {
      auto source = look_at_source(place);
      if (!source.ok()) {
        fail(source.error().message, 1);
        return;
      }
      begun_message_ = to_json(*source);
      options.work = [place] { return tell_copy(send_copy(place, 1)); };
    }
    start(options);
  }

  /// The sentence goes to the standard error output, as that of a program.
  static int tell_copy(const Status& status) {
    if (status.ok()) {
      return 0;
    }
    (void)write_all(2, status.error().message);
    return 1;
  }

  void connect(StreamId id, int port) {
    if (pump_.has(id)) {
      return;
    }
    if (port < 1 || port > 65535 || pump_.streams() >= kMostStreams) {
      refuse(id, pump_.streams() >= kMostStreams
                     ? fmt::format("there are {} connections already", kMostStreams)
                     : fmt::format("{} is no port", port));
      return;
    }
    auto fd = connect_to_port(port);
    if (!fd.ok()) {
      refuse(id, fd.error().message);
      return;
    }
    UniqueFd other(::fcntl(fd->get(), F_DUPFD_CLOEXEC, 3));
    pump_.attach(id, {std::move(fd).value(), std::move(other), LocalEnd::Kind::kSocket});
  }

  void refuse(StreamId id, const std::string& why) {
    pump_.say({{"type", "refused"}, {"stream", id}, {"message", why}});
  }

  void fail(const std::string& why, int code) {
    pump_.say({{"type", "failed"}, {"message", why}, {"code", code}});
    told_end_ = true;
    farewell_ = clock_.now().mono + kFarewell;
  }

  void hang_up(MonoTime now) {
    if (pid_ == 0 || ended_) {
      return;
    }
    if (!kill_at_) {
      kill_at_ = now + kHangUp;
      ::kill(-pid_, SIGHUP);
      ::kill(-pid_, SIGCONT);
      terminal_.reset();
      if (lost_) {
        for (const StreamId id : {0U, 1U, 2U}) {
          pump_.forget(id);
        }
      }
    } else if (now >= *kill_at_) {
      ::kill(-pid_, SIGKILL);
    }
  }

  void reap() {
    for (;;) {
      int status = 0;
      const pid_t gone = ::waitpid(-1, &status, WNOHANG);
      if (gone <= 0) {
        return;
      }
      if (gone == pid_) {
        ended_ = true;
        wait_status_ = status;
        quiet_since_ = clock_.now().mono;
      }
    }
  }

  void end_when_done(MonoTime now) {
    if (told_end_) {
      if (!hasty_ && !pump_.flushed()) {
        farewell_ = now + kFarewell;
      }
      over_ = gone_ || now >= farewell_;
      return;
    }
    if (forwards_ && (gone_ || !stop_reason_.empty())) {
      over_ = true;
      return;
    }
    if (!ended_) {
      return;
    }
    if (lost_) {
      over_ = gone_;
      return;
    }
    const StreamId first = has_terminal_ ? 0 : 1;
    if (moved_ != pump_.moved() || pump_.readable(first) || pump_.readable(2)) {
      moved_ = pump_.moved();
      quiet_since_ = now;
    }
    const bool reads = pump_.reads(first) || pump_.reads(2);
    if (reads && now < quiet_since_ + kQuietAtEnd) {
      return;
    }
    pump_.say({{"type", "exit"},
               {"code",
                WIFEXITED(wait_status_) ? WEXITSTATUS(wait_status_) : 128 + WTERMSIG(wait_status_)},
               {"signal", WIFSIGNALED(wait_status_) ? WTERMSIG(wait_status_) : 0},
               {"note", stop_reason_}});
    told_end_ = true;
    farewell_ = now + (stop_reason_.empty() ? kFarewell : kHastyFarewell);
  }

  const RemoteSessionOrder order_;
  const Clock& clock_;
  SessionCarrier carrier_;
  session::Pump pump_;
  bool begun_ = false;
  bool forwards_ = false;
  bool lost_ = false;  // the other end: nobody is left to work for
  bool gone_ = false;  // and nothing more is to be said
  bool over_ = false;
  pid_t pid_ = 0;
  bool ended_ = false;  // the program
  int wait_status_ = 0;
  UniqueFd terminal_;
  bool has_terminal_ = false;
  json::object begun_message_;
  std::string stop_reason_;
  std::optional<MonoTime> kill_at_;
  std::uint64_t moved_ = 0;
  MonoTime quiet_since_{0};
  bool told_end_ = false;
  bool hasty_ = false;
  MonoTime farewell_{INT64_MAX};
};

}  // namespace

std::string to_text(const RemoteSessionOrder& order) {
  json::array environment;
  for (const std::string& entry : order.environment) {
    environment.emplace_back(entry);
  }
  return quad::to_text(json::object{{"server", order.server},
                                    {"ca", order.ca},
                                    {"token", order.token},
                                    {"target", order.target},
                                    {"kind", order.kind},
                                    {"home", order.home},
                                    {"environment", std::move(environment)}});
}

Result<RemoteSessionOrder> read_remote_session_order(std::string_view text) {
  QUAD_ASSIGN(const json::object object, parse_json_object(text));
  RemoteSessionOrder order;
  order.server = get_string(object, "server");
  order.ca = get_string(object, "ca");
  order.token = get_string(object, "token");
  order.target = get_string(object, "target");
  order.kind = get_string(object, "kind");
  order.home = get_string(object, "home");
  if (const json::array* environment = get_array(object, "environment")) {
    for (const json::value& entry : *environment) {
      order.environment.emplace_back(entry.is_string() ? std::string_view(entry.get_string()) : "");
    }
  }
  return order;
}

void run_remote_session(int file) {
  ::prctl(PR_SET_NAME, "quad-session");
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  reset_signals();
  keep_only_files({file});
  prepare_signals();
  std::string text;
  char buffer[16384];
  off_t at = 0;
  for (ssize_t got = 0; (got = ::pread(3, buffer, sizeof buffer, at)) > 0; at += got) {
    text.append(buffer, static_cast<std::size_t>(got));
  }
  ::close(3);
  if (auto order = read_remote_session_order(text); order.ok()) {
    const SystemClock clock;
    Session(std::move(order).value(), clock).run();
  }
  ::_exit(0);
}

}  // namespace quad::runner
