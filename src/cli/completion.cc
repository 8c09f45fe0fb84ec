#include "cli/completion.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>

#include "base/text.h"
#include "cli/answer.h"
#include "cli/output.h"
#include "cli/terminal.h"

namespace quad::cli {

namespace {

struct Candidate {
  std::string word;
  std::string help;
};

constexpr std::string_view kFiles = ":files";

bool takes_value(const CLI::Option& option) {
  return option.get_items_expected_max() > 0;
}

std::vector<std::string> spellings(const CLI::Option& option) {
  std::vector<std::string> all;
  for (const std::string& name : option.get_lnames()) {
    all.push_back("--" + name);
  }
  for (const std::string& name : option.get_snames()) {
    all.push_back("-" + name);
  }
  return all;
}

bool hidden(std::string_view name) {
  return name.empty() || name.starts_with("__");
}

/// A command line on its way through the tree of verbs.
class Walk {
 public:
  explicit Walk(CLI::App& app) : app_(&app) { path_.push_back(&app); }

  void take(const std::string& word) {
    if (value_of_ != nullptr) {
      note_value(*value_of_, word);
      value_of_ = nullptr;
    } else if (!only_positionals_ && word == "--") {
      only_positionals_ = true;
    } else if (!only_positionals_ && word.size() > 1 && word[0] == '-') {
      take_flag(word);
    } else if (CLI::App* verb = only_positionals_ ? nullptr : verb_named(word)) {
      app_ = verb;
      path_.push_back(verb);
    } else {
      if (positionals_ == 0 && !unknown_ && !verbs().empty()) {
        unknown_ = word;
      }
      ++positionals_;
    }
  }

  [[nodiscard]] std::vector<CLI::App*> verbs() const {
    return app_->get_subcommands([](const CLI::App* one) { return !hidden(one->get_name()); });
  }
  /// The flags that may stand here: those of the verb and of those above it.
  [[nodiscard]] std::vector<const CLI::Option*> flags() const {
    std::vector<const CLI::Option*> all;
    for (const CLI::App* app : path_) {
      for (const CLI::Option* option : app->get_options()) {
        if (option->nonpositional()) {
          all.push_back(option);
        }
      }
    }
    return all;
  }
  /// The positional argument that a word here would be; null if none is left.
  [[nodiscard]] const CLI::Option* positional() const {
    std::size_t number = 0;
    const CLI::Option* last = nullptr;
    for (const CLI::Option* option : app_->get_options()) {
      if (option->get_positional()) {
        last = option;
        if (number++ == positionals_) {
          return option;
        }
      }
    }
    return last != nullptr && last->get_items_expected_max() > 1 ? last : nullptr;
  }
  [[nodiscard]] const CLI::Option* value_of() const { return value_of_; }
  [[nodiscard]] bool wants_value(const std::string& flag) const {
    const auto all = flags();
    return std::any_of(all.begin(), all.end(), [&](const CLI::Option* option) {
      const auto names = spellings(*option);
      return takes_value(*option) && std::find(names.begin(), names.end(), flag) != names.end();
    });
  }
  [[nodiscard]] bool only_positionals() const { return only_positionals_; }
  [[nodiscard]] const std::optional<std::string>& unknown() const { return unknown_; }
  [[nodiscard]] bool unknown_is_flag() const { return unknown_ && unknown_->starts_with('-'); }
  [[nodiscard]] const std::string& data_dir() const { return data_dir_; }
  [[nodiscard]] const std::string& server() const { return server_; }
  /// "quad jobs cancel"
  [[nodiscard]] std::string name() const {
    std::string name = "quad";
    for (std::size_t i = 1; i < path_.size(); ++i) {
      name += " " + path_[i]->get_name();
    }
    return name;
  }
  [[nodiscard]] const CLI::App& app() const { return *app_; }

 private:
  CLI::App* verb_named(const std::string& word) const {
    for (CLI::App* one : verbs()) {
      if (one->get_name() == word) {
        return one;
      }
    }
    return nullptr;
  }

  void take_flag(const std::string& word) {
    const std::size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    for (const CLI::Option* option : flags()) {
      const auto all = spellings(*option);
      const bool whole = std::find(all.begin(), all.end(), name) != all.end();
      // -n5 and -nNAME
      const bool joined = !whole && word[1] != '-' &&
                          std::find(all.begin(), all.end(), word.substr(0, 2)) != all.end();
      if (whole || joined) {
        if (takes_value(*option) && whole && equals == std::string::npos) {
          value_of_ = option;
        } else if (equals != std::string::npos) {
          note_value(*option, word.substr(equals + 1));
        }
        return;
      }
    }
    if (!unknown_) {
      unknown_ = name;
    }
  }

  void note_value(const CLI::Option& option, const std::string& value) {
    if (option.get_name() == "--data-dir") {
      data_dir_ = value;
    } else if (option.get_name() == "--server") {
      server_ = value;
    }
  }

  CLI::App* app_;
  std::vector<const CLI::App*> path_;
  const CLI::Option* value_of_ = nullptr;
  bool only_positionals_ = false;
  std::size_t positionals_ = 0;
  std::optional<std::string> unknown_;
  std::string data_dir_, server_;
};

/// Before a word that the parser would not take as it is.
constexpr char kAsTyped = '\x01';

/// "[a,b]" would be a list of words, and "++" the end of a verb.
bool must_be_hidden(const std::string& word) {
  return (word.starts_with('[') && word.ends_with(']')) || word == "++" ||
         word.starts_with(kAsTyped);
}

/// Each option of the tree takes a hidden word as it was.
void give_back_as_typed(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    option->transform(
        [](std::string word) { return word.starts_with(kAsTyped) ? word.substr(1) : word; });
  }
  for (CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    give_back_as_typed(*verb);
  }
}

/// What the server knows, if one answers.
class Known {
 public:
  explicit Known(const Globals& globals) : globals_(globals) {}

  std::vector<Candidate> jobs(bool active) {
    std::vector<Candidate> found;
    each(active ? "/v1/jobs?limit=200&status=active" : "/v1/jobs?limit=200", "jobs",
         [&](const json::object& job) {
           found.push_back({std::to_string(get_int(job, "id")),
                            fmt::format("{} {}", printable(get_string(job, "name")),
                                        get_string(job, "status"))});
         });
    return found;
  }
  std::vector<Candidate> clusters() {
    std::vector<Candidate> found;
    each("/v1/clusters", "clusters", [&](const json::object& cluster) {
      found.push_back({std::string(get_string(cluster, "name")),
                       fmt::format("cluster {}", get_string(cluster, "status"))});
    });
    return found;
  }
  std::vector<Candidate> nodes() {
    std::vector<Candidate> found;
    each("/v1/nodes", "nodes", [&](const json::object& node) {
      found.push_back(
          {std::string(get_string(node, "name")), std::string(get_string(node, "health"))});
    });
    return found;
  }

 private:
  void each(const char* target, std::string_view member,
            const std::function<void(const json::object&)>& take) {
    auto client = Client::connect(globals_, false);
    const auto answer = client.ok() ? client->get(target) : Result<json::object>(client.error());
    if (const auto* array = answer.ok() ? get_array(*answer, member) : nullptr) {
      for (const json::value& one : *array) {
        take(object_of(one));
      }
    }
  }

  const Globals& globals_;
};

std::vector<Candidate> words(std::initializer_list<const char*> all) {
  std::vector<Candidate> found;
  for (const char* word : all) {
    found.push_back({word, ""});
  }
  return found;
}

/// What a flag's value or a positional argument may be. Its name says what it is.
std::vector<Candidate> values_of(const CLI::Option& option, const Walk& walk, Known& known) {
  const std::string name = option.get_name();
  const std::string verb = walk.app().get_name();
  if (name == "job" || name == "jobs" || name == "--job") {
    std::vector<Candidate> found = known.jobs(verb == "cancel" || verb == "why" || verb == "exec" ||
                                              verb == "shell" || verb == "port-forward");
    if (verb == "status" || verb == "queue" || verb == "logs" || verb == "cancel" ||
        verb == "exec" || verb == "shell" || verb == "why" || verb == "story" ||
        verb == "checkpoints" || verb == "port-forward") {
      for (Candidate& cluster : known.clusters()) {
        found.push_back(std::move(cluster));
      }
    }
    return found;
  }
  if (name == "cluster" || name == "clusters" || name == "--cluster") {
    return known.clusters();
  }
  if (name == "source" || name == "target") {  // of cp
    std::vector<Candidate> found = known.jobs(true);
    for (Candidate& job : found) {
      job.word += ":";
    }
    found.push_back({std::string(kFiles), ""});
    return found;
  }
  if (name == "node" || name == "--node") {
    return known.nodes();
  }
  if (name == "shell") {
    return words({"bash", "zsh", "fish"});
  }
  if (name == "--output") {
    return words({"json", "table"});
  }
  if (name == "--role") {
    return words({"admin", "user", "viewer"});
  }
  if (name == "--status") {
    return words({"active", "finished", "PENDING", "STARTING", "RUNNING", "RECOVERING",
                  "CANCELLING", "SUCCEEDED", "FAILED", "CANCELLED"});
  }
  if (name == "--infra" || name == "--cloud") {
    return words({"kubernetes", "local", "slurm"});
  }
  constexpr std::array kPaths = {"files",      "file",          "entrypoint", "--workdir",
                                 "--env-file", "--secret-file", "--config",   "--data-dir",
                                 "--ca",       "--tls-cert",    "--tls-key",  "--tls-ca"};
  if (std::find(kPaths.begin(), kPaths.end(), name) != kPaths.end()) {
    return {{std::string(kFiles), ""}};
  }
  return {};
}

std::vector<Candidate> candidates(const Walk& walk, const std::string& last, Known& known) {
  if (walk.value_of() != nullptr) {
    return values_of(*walk.value_of(), walk, known);
  }
  std::vector<Candidate> found;
  if (!walk.only_positionals() && last.starts_with('-')) {
    for (const CLI::Option* option : walk.flags()) {
      for (const std::string& one : spellings(*option)) {
        if (one.starts_with("--") || last.size() < 2) {
          found.push_back({one, option->get_description()});
        }
      }
    }
    return found;
  }
  for (const CLI::App* verb : walk.verbs()) {
    found.push_back({verb->get_name(), verb->get_description()});
  }
  if (const CLI::Option* positional = walk.positional(); positional != nullptr && found.empty()) {
    return values_of(*positional, walk, known);
  }
  return found;
}

// The scripts. Each gives the words up to the cursor to `quad __complete` and shows what comes
// back.

constexpr const char* kBash = R"(_quad() {
  local line word
  local cur="${COMP_WORDS[COMP_CWORD]}"
  COMPREPLY=()
  while IFS= read -r line; do
    word="${line%%$'\t'*}"
    if [ "$word" = ":files" ]; then
      compopt -o filenames 2>/dev/null
      while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$cur")
    elif [ -n "$word" ]; then
      COMPREPLY+=("$word")
    fi
  done < <("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _quad quad
)";

constexpr const char* kZsh = R"(#compdef quad
_quad() {
  local line word
  local -a found
  while IFS= read -r line; do
    word="${line%%$'\t'*}"
    if [[ "$word" == ":files" ]]; then
      _files
    elif [[ -n "$word" ]]; then
      found+=("${word//:/\\:}:${line#*$'\t'}")
    fi
  done < <("${words[1]}" __complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)
  (( $#found )) && _describe 'quad' found
}
if [[ "${funcstack[1]}" == _quad ]]; then
  _quad "$@"
else
  (( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u; }
  compdef _quad quad
fi
)";

constexpr const char* kFish = R"(function __quad_complete
  set -l words (commandline -opc)
  set -l current (commandline -ct)
  for line in ($words[1] __complete $words[2..-1] "$current" 2>/dev/null)
    if string match -q ':files*' -- $line
      __fish_complete_path "$current"
    else
      echo $line
    end
  end
end
complete -c quad -f -a '(__quad_complete)'
)";

}  // namespace

int complete(CLI::App& app, Program& program, const std::vector<std::string>& words) {
  constexpr unsigned kPatienceSeconds = 2;
  ::alarm(kPatienceSeconds);
  Walk walk(app);
  std::string last = words.empty() ? "" : words.back();
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] != "=") {  // how bash splits --flag=value
      walk.take(words[i]);
    }
  }
  std::string before;  // "--flag=", which zsh and fish leave on the word
  if (last == "=") {
    last.clear();
  } else if (const std::size_t equals = last.find('=');
             last.starts_with("--") && equals != std::string::npos) {
    walk.take(last.substr(0, equals));
    before = last.substr(0, equals + 1);
    last.erase(0, equals + 1);
  }
  program.globals.data_dir = walk.data_dir();
  program.globals.server = walk.server();
  Known known(program.globals);
  for (const Candidate& one : candidates(walk, last, known)) {
    if (one.word == kFiles) {
      print("{}\t\n", one.word);
    } else if (one.word.starts_with(last)) {
      print("{}{}\t{}\n", before, one.word, one.help);
    }
  }
  return kOk;
}

std::vector<std::string> parser_words(CLI::App& app, Program& program,
                                      const std::vector<std::string>& words) {
  give_back_as_typed(app);
  std::vector<std::string> safe;
  Walk walk(app);
  for (auto word = words.begin(); word != words.end(); ++word) {
    const bool is_value = walk.value_of() != nullptr;
    const bool was_command = walk.only_positionals();
    walk.take(*word);
    if (!was_command && walk.only_positionals()) {
      const auto& takers = program.command_verbs;
      if (std::find(takers.begin(), takers.end(), &walk.app()) != takers.end()) {
        program.command.emplace(word + 1, words.end());
        break;
      }
    }
    const std::size_t equals = word->find('=');
    if (!is_value && !walk.only_positionals() && word->starts_with("--") &&
        equals + 1 == word->size() && walk.wants_value(word->substr(0, equals))) {
      safe.push_back(word->substr(0, equals));  // as --flag= would take the next word
      safe.emplace_back();
    } else {
      safe.push_back(must_be_hidden(*word) ? kAsTyped + *word : *word);
    }
  }
  return safe;
}

std::string usage_error(CLI::App& app, const std::vector<std::string>& words, std::string problem) {
  problem.erase(std::remove(problem.begin(), problem.end(), kAsTyped), problem.end());
  Walk walk(app);
  for (const std::string& word : words) {
    walk.take(word);
  }
  const std::string see = fmt::format("See '{} --help'.", walk.name());
  if (!walk.unknown()) {
    if (!walk.verbs().empty()) {
      std::vector<std::string> names;
      for (const CLI::App* verb : walk.verbs()) {
        names.push_back(verb->get_name());
      }
      return fmt::format("'{}' needs a verb: {}. {}", walk.name(),
                         join_words({names.begin(), names.end()}, "or"), see);
    }
    return fmt::format("{}{} {}", problem, problem.ends_with('.') ? "" : ".", see);
  }
  std::vector<std::string> known;
  if (walk.unknown_is_flag()) {
    for (const CLI::Option* option : walk.flags()) {
      const auto all = spellings(*option);
      known.insert(known.end(), all.begin(), all.end());
    }
  } else {
    for (const CLI::App* verb : walk.verbs()) {
      known.push_back(verb->get_name());
    }
  }
  const auto near = nearest(*walk.unknown(), {known.begin(), known.end()});
  std::string text =
      fmt::format("'{}' has no {} '{}'", walk.name(), walk.unknown_is_flag() ? "flag" : "verb",
                  printable(*walk.unknown()));
  if (near) {
    text += fmt::format("; did you mean '{}'?", *near);
  } else if (walk.unknown_is_flag() && walk.app().get_name() == "launch") {
    text += "; flags of a command come after --: quad launch -- python x.py --lr 1.";
  } else {
    text += ".";
  }
  return text + " " + see;
}

void add_completion(CLI::App& app, Program& program) {
  auto shell = std::make_shared<std::string>();
  CLI::App* verb =
      app.add_subcommand("completion", "Completion for a shell: eval \"$(quad completion bash)\"");
  verb->add_option("shell", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  verb->callback([&program, shell] {
    program.chosen = [shell] {
      std::fputs(*shell == "bash" ? kBash : *shell == "zsh" ? kZsh : kFish, stdout);
      return kOk;
    };
  });
}

}  // namespace quad::cli
