// spec/diagnostic.h
//
// What is wrong with a task file, in words that say where and what to write instead. Plain values;
// any thread.

#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quad::spec {

/// A place in the text, counted from 1; 0 where there is none (a value from the command line).
struct Mark {
  int line = 0;
  int column = 0;
};

struct Diagnostic {
  std::string message;  ///< one sentence: the key, the value, what is allowed
  std::string
      key;  ///< the path, such as "resources.cpus" or "envs.A"; empty for the file as a whole
  std::string hint;  ///< what to write instead, if that can be guessed
  int line = 0;
  int column = 0;
};

/// Gathers errors and warnings while a file is read. The first error decides; a bound keeps a
/// hopeless file readable.
class Issues {
 public:
  void fail(std::string_view key, Mark mark, std::string message, std::string hint = {}) {
    ++failures_;
    add(errors_, key, mark, std::move(message), std::move(hint));
  }
  void warn(std::string_view key, Mark mark, std::string message, std::string hint = {}) {
    add(warnings_, key, mark, std::move(message), std::move(hint));
  }

  /// How often fail() was called: a reader compares before and after to know whether its part held.
  [[nodiscard]] std::size_t failures() const { return failures_; }
  [[nodiscard]] const std::vector<Diagnostic>& errors() const { return errors_; }
  [[nodiscard]] const std::vector<Diagnostic>& warnings() const { return warnings_; }

  static constexpr std::size_t kMostKept = 50;

 private:
  static void add(std::vector<Diagnostic>& list, std::string_view key, Mark mark,
                  std::string message, std::string hint) {
    if (list.size() < kMostKept) {
      list.push_back(
          {std::move(message), std::string(key), std::move(hint), mark.line, mark.column});
    }
  }

  std::size_t failures_ = 0;
  std::vector<Diagnostic> errors_;
  std::vector<Diagnostic> warnings_;
};

}  // namespace quad::spec
