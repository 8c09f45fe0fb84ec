// cli/terminal.h
//
// What the command line knows of the terminal it may be on, and the one live line at its bottom.
// The width is asked for anew each time, so a resized window is drawn to its new size. One thread;
// no state but a Screen's own.

#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace quad::cli {

/// Text that may go to a terminal as it is: it holds no control characters but Quad's own colours
/// and line ends. Made by safe_text() of output.h; wrapping anything else is a promise.
struct SafeText {
  std::string text;
};

/// Whether colours are welcome there: a terminal that can, and no NO_COLOR.
bool has_colour(int fd);
/// The terminal's columns; 0 if `fd` is none.
std::size_t columns_of(int fd);

/// Cells on the screen: characters, without colour sequences.
std::size_t cells(std::string_view text);
/// The text in at most `width` cells, with … where it was cut. Colour sequences count nothing and
/// are kept whole.
std::string fitted(std::string_view text, std::size_t width);
/// Output above, one live line below. The live line is on standard error, is drawn only while the
/// cursor is at the start of a line, and is gone before anything else is written: it never mixes
/// with the output. Without a terminal on standard error there is no live line, and output passes
/// through untouched.
class Screen {
 public:
  Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;
  ~Screen() { clear(); }

  /// A piece of the job's output, to standard output. False once nobody reads it.
  bool output(std::string_view bytes);
  /// A line of Quad's own, to standard error; on a line of its own even after output without a
  /// newline.
  void note(const SafeText& line);
  /// The live line from now on; drawn at once if it can be. Empty: none.
  void live(SafeText line);
  /// Takes the live line away, for good unless live() is called again.
  void clear();
  [[nodiscard]] bool has_live() const { return live_possible_; }

 private:
  [[nodiscard]] std::string erasing();
  [[nodiscard]] std::string drawing();

  bool live_possible_;
  bool shared_;             ///< output and live line are on the same terminal
  bool line_start_ = true;  ///< the output so far ended with a newline
  std::string text_;
  std::size_t drawn_ = 0;  ///< cells of the live line that is on the screen; 0: none
};

/// While it lives, Ctrl-C (and SIGTERM) erases the live line, writes `farewell` to standard error
/// and ends the program with 130 (143). One at a time.
class Interruption {
 public:
  explicit Interruption(std::string farewell);
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;
  ~Interruption();
};

}  // namespace quad::cli
