#include "cli/terminal.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/file.h"

namespace quad::cli {

namespace {

bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0';
}

bool can_draw(int fd) {
  const char* term = std::getenv("TERM");
  return ::isatty(fd) == 1 && (term == nullptr || std::strcmp(term, "dumb") != 0);
}

bool same_device(int a, int b) {
  struct stat first {};
  struct stat second {};
  return ::fstat(a, &first) == 0 && ::fstat(b, &second) == 0 && first.st_rdev == second.st_rdev;
}

bool continues_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U;
}

// What the signal handler needs. It may interrupt anything, so it only reads these and calls write
// and _exit.
std::atomic<const char*> farewell_text{nullptr};
std::atomic<std::size_t> farewell_size{0};
std::atomic<bool> line_drawn{false};

constexpr std::string_view kErase = "\r\x1b[J";  // this line and what is below

void on_signal(int number) {
  if (line_drawn.load()) {
    [[maybe_unused]] const auto erased = ::write(STDERR_FILENO, kErase.data(), kErase.size());
  }
  [[maybe_unused]] const auto told =
      ::write(STDERR_FILENO, farewell_text.load(), farewell_size.load());
  ::_exit(128 + number);
}

}  // namespace

bool has_colour(int fd) {
  return can_draw(fd) && !is_set("NO_COLOR");
}

std::size_t columns_of(int fd) {
  if (::isatty(fd) != 1) {
    return 0;
  }
  constexpr std::size_t kUsual = 80;
  winsize size{};
  return ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kUsual;
}

std::size_t cells(std::string_view text) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\x1b') {
      i = std::min(text.find('m', i), text.size() - 1);
    } else if (!continues_character(text[i])) {
      ++count;
    }
  }
  return count;
}

std::string fitted(std::string_view text, std::size_t width) {
  if (cells(text) <= width) {
    return std::string(text);
  }
  std::string out;
  std::size_t used = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\x1b') {
      const std::size_t end = std::min(text.find('m', i), text.size() - 1);
      out.append(text, i, end - i + 1);
      i = end;
      continue;
    }
    if (!continues_character(text[i])) {
      ++used;
    }
    if (used + 1 <= width) {
      out += text[i];
    } else if (used == width && !continues_character(text[i])) {
      out += "…";
    }
  }
  return out;
}

Screen::Screen()
    : live_possible_(can_draw(STDERR_FILENO)),
      shared_(live_possible_ && same_device(STDOUT_FILENO, STDERR_FILENO)) {}

std::string Screen::erasing() {
  if (drawn_ == 0) {
    return {};
  }
  // A window that was made narrower since has broken the line into several: all of them go.
  const std::size_t width = std::max<std::size_t>(columns_of(STDERR_FILENO), 1);
  const std::size_t above = (drawn_ - 1) / width;
  drawn_ = 0;
  line_drawn = false;
  return (above > 0 ? "\x1b[" + std::to_string(above) + "A" : "") + std::string(kErase);
}

std::string Screen::drawing() {
  if (!live_possible_ || text_.empty() || !line_start_) {
    return {};
  }
  const std::size_t width = columns_of(STDERR_FILENO);
  if (width < 2) {
    return {};
  }
  std::string line = fitted(text_, width - 1);
  drawn_ = cells(line);
  line_drawn = true;
  return line;
}

bool Screen::output(std::string_view bytes) {
  if (bytes.empty()) {
    return true;
  }
  if (!shared_) {
    return write_all(STDOUT_FILENO, bytes).ok();
  }
  // One write, so that the live line does not flicker.
  std::string all = erasing();
  all += bytes;
  line_start_ = bytes.back() == '\n';
  all += drawing();
  return write_all(STDOUT_FILENO, all).ok();
}

void Screen::note(const SafeText& line) {
  std::string all = erasing();
  all += line_start_ || !shared_ ? "" : "\n";
  line_start_ = true;
  all += line.text;
  all += '\n';
  all += drawing();
  (void)write_all(STDERR_FILENO, all);  // nobody is left to be told that nobody reads this
}

void Screen::live(SafeText line) {
  if (!live_possible_) {
    return;
  }
  text_ = std::move(line.text);
  std::string all = erasing();
  all += drawing();
  (void)write_all(STDERR_FILENO, all);
}

void Screen::clear() {
  text_.clear();
  const std::string all = erasing();
  if (!all.empty()) {
    (void)write_all(STDERR_FILENO, all);
  }
}

Interruption::Interruption(std::string farewell) {
  static std::string kept;  // the handler may still be reading it when the Interruption ends
  kept = std::move(farewell);
  farewell_size = kept.size();
  farewell_text = kept.data();
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  sigaddset(&action.sa_mask, SIGINT);
  sigaddset(&action.sa_mask, SIGTERM);
  for (const int number : {SIGINT, SIGTERM}) {
    struct sigaction before {};
    ::sigaction(number, &action, &before);
    if (before.sa_handler == SIG_IGN) {
      ::signal(number,
               SIG_IGN);  // as whoever started this wanted it: nohup, a shell's background job
    }
  }
}

Interruption::~Interruption() {
  for (const int number : {SIGINT, SIGTERM}) {
    if (::signal(number, SIG_DFL) == SIG_IGN) {
      ::signal(number, SIG_IGN);
    }
  }
}

}  // namespace quad::cli
