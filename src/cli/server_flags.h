// cli/server_flags.h
//
// The flags that say over the server's configuration: those of `quad serve`, which `quad config
// show` takes too, to tell what would count.

#pragma once

#include <deque>
#include <string>
#include <vector>

#include "cli/client.h"
#include "config/config.h"
#include "config/file.h"

namespace CLI {  // NOLINT(readability-identifier-naming): the library's own name
class App;
class Option;
}  // namespace CLI

namespace quad::cli {

class ServerFlags {
 public:
  /// Adds them to the verb, and must outlive its parsing.
  explicit ServerFlags(CLI::App& verb);
  ServerFlags(const ServerFlags&) = delete;
  ServerFlags& operator=(const ServerFlags&) = delete;

  [[nodiscard]] config::Source source(const Globals& globals) const;
  /// Those that were given.
  [[nodiscard]] std::vector<config::Override> given() const;

 private:
  enum class Kind { kText, kInteger, kNumber, kSeconds, kYes };
  struct Flag {
    std::string key;
    Kind kind = Kind::kText;
    CLI::Option* option = nullptr;
    std::string text;
    bool yes = false;
  };
  CLI::Option* add(CLI::App& verb, Kind kind, const char* spelling, const char* key,
                   const char* help);

  std::string file_;
  std::deque<Flag> flags_;  ///< the parser writes into them where they are
};

/// Prints every error and warning of the configuration, a line each, to standard error.
void print_faults(const config::Loaded& loaded, const config::Source& source);

}  // namespace quad::cli
