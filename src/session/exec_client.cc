#include "session/exec_client.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <utility>
#include <vector>

#include "base/text.h"

namespace quad::session {
namespace {

constexpr Millis kTick{60'000};
constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH};

// What the handlers need; set before they are installed.
volatile sig_atomic_t signal_come = 0;
volatile sig_atomic_t resized = 0;

void on_signal(int number) {
  if (number == SIGWINCH) {
    resized = 1;
  } else {
    signal_come = number;
  }
}

/// Signals are kept back but while step() waits.
class Signals {
 public:
  Signals() {
    signal_come = 0;
    resized = 0;
    sigset_t held;
    sigemptyset(&held);
    for (const int number : kSignals) {
      struct sigaction action {};
      action.sa_handler = on_signal;
      ::sigaction(number, &action, &before_[static_cast<std::size_t>(number)]);
      if (number != SIGWINCH && before_[static_cast<std::size_t>(number)].sa_handler == SIG_IGN) {
        ::signal(number, SIG_IGN);  // as whoever started this wanted it: nohup
      }
      sigaddset(&held, number);
    }
    ::sigprocmask(SIG_BLOCK, &held, &unblocked_);
    for (const int number : kSignals) {
      sigdelset(&unblocked_, number);
    }
  }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;
  ~Signals() {
    for (const int number : kSignals) {
      ::sigaction(number, &before_[static_cast<std::size_t>(number)], nullptr);
    }
    ::sigprocmask(SIG_SETMASK, &unblocked_, nullptr);
  }
  [[nodiscard]] const sigset_t& unblocked() const { return unblocked_; }

 private:
  struct sigaction before_[NSIG]{};
  sigset_t unblocked_{};
};

class RawTerminal {
 public:
  explicit RawTerminal(bool wanted) {
    if (!wanted || ::tcgetattr(STDIN_FILENO, &before_) != 0) {
      return;
    }
    termios raw = before_;
    ::cfmakeraw(&raw);
    is_raw_ = ::tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
  }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
  ~RawTerminal() { restore(); }
  void restore() {
    if (std::exchange(is_raw_, false)) {
      // Without it a process in the background would be stopped here.
      struct sigaction ignore {};
      struct sigaction before {};
      ignore.sa_handler = SIG_IGN;
      ::sigaction(SIGTTOU, &ignore, &before);
      ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
      ::sigaction(SIGTTOU, &before, nullptr);
    }
  }

 private:
  termios before_{};
  bool is_raw_ = false;
};

struct Size {
  int rows = 24;
  int columns = 80;
};

Size terminal_size() {
  winsize size{};
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0) {
      return {size.ws_row, size.ws_col};
    }
  }
  return {};
}

UniqueFd copy_of(int fd) {
  return UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
}

LocalEnd borrowed(UniqueFd from, UniqueFd to) {
  return {std::move(from), std::move(to), LocalEnd::Kind::kPipe, true};
}

class Client {
 public:
  Client(Carrier& carrier, ExecOptions options)
      : options_(std::move(options)), pump_(carrier, kWindow) {}

  Result<int> run() {
    const Signals signals;
    const SystemClock clock;
    pump_.watch_over(clock);
    RawTerminal raw(options_.terminal);
    begin();
    Status over;
    while ((!code_ && over.ok()) || pump_.holds_bytes()) {
      std::vector<pollfd> none;
      if (Status stepped = pump_.step(none, kTick, &signals.unblocked()); !stepped.ok()) {
        over = std::move(stepped);
      }
      if (std::exchange(resized, 0) != 0 && options_.terminal) {
        const Size size = terminal_size();
        pump_.say({{"type", "resize"}, {"rows", size.rows}, {"columns", size.columns}});
      }
      if (const int number = std::exchange(signal_come, 0); number != 0) {
        if (options_.terminal || std::exchange(passed_on_, true)) {
          return 128 + number;
        }
        pump_.say({{"type", "signal"}, {"number", number}});
      }
    }
    raw.restore();
    if (!code_) {
      return over.error();
    }
    if (!failure_.empty()) {
      std::fprintf(stderr, "error: %s\n", failure_.c_str());
    }
    return *code_;
  }

 private:
  void begin() {
    json::object begin = std::move(options_.begin);
    begin["type"] = "begin";
    begin["terminal"] = options_.terminal;
    if (options_.terminal) {
      const Size size = terminal_size();
      const char* term = std::getenv("TERM");
      begin["rows"] = size.rows;
      begin["columns"] = size.columns;
      begin["term"] = term == nullptr ? "" : term;
    }
    pump_.on_message = [this](const json::object& message) { take(message); };
    pump_.say(begin);
    // Before the other end has said that it runs, as that costs a turn: what is sent to a program
    // that cannot be started is dropped.
    if (options_.terminal) {
      pump_.attach(0, borrowed(copy_of(STDIN_FILENO), copy_of(STDOUT_FILENO)));
    } else {
      pump_.attach(0, borrowed(copy_of(STDIN_FILENO), UniqueFd()));
      pump_.attach(1, borrowed(UniqueFd(), copy_of(STDOUT_FILENO)));
      pump_.attach(2, borrowed(UniqueFd(), copy_of(STDERR_FILENO)));
      if (!options_.input) {
        pump_.end_reading(0);
      }
    }
  }

  void take(const json::object& message) {
    const std::string_view type = get_string(message, "type");
    if (type == "failed") {
      failure_ = printable(get_string(message, "message"));
      code_ = exit_code_of(message);
    } else if (type == "exit") {
      code_ = exit_code_of(message);
      const std::string_view note = get_string(message, "note");
      failure_ = note.empty() ? std::string()
                              : fmt::format("the program was hung up: {}", printable(note));
    }
  }

  ExecOptions options_;
  Pump pump_;
  bool passed_on_ = false;
  std::string failure_;
  std::optional<int> code_;
};

}  // namespace

Result<int> run_exec(Carrier& carrier, ExecOptions options) {
  return Client(carrier, std::move(options)).run();
}

}  // namespace quad::session
