#include "cli/entrypoint.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <initializer_list>
#include <string_view>

#include "base/text.h"
#include "cli/task_input.h"

namespace quad::cli {

namespace fs = std::filesystem;

namespace {

bool has_suffix_of_task(std::string_view word) {
  return word.ends_with(".yaml") || word.ends_with(".yml");
}

bool ends_with_one_of(std::string_view word, std::initializer_list<std::string_view> suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(), [&](std::string_view suffix) {
    return word.size() > suffix.size() && word.ends_with(suffix);
  });
}

/// Code for an interpreter: no task.
bool has_suffix_of_code(std::string_view word) {
  return ends_with_one_of(
      word, {".py", ".sh", ".bash", ".zsh", ".ipynb", ".pl", ".rb", ".jl", ".sbatch", ".slurm"});
}

/// A file by its name; no program that is found by name alone is called so.
bool has_suffix_of_file(std::string_view word) {
  return has_suffix_of_code(word) || has_suffix_of_task(word) ||
         ends_with_one_of(word, {".json", ".toml", ".ini", ".txt", ".conf", ".cfg", ".env"});
}

/// NAME=VALUE, as a shell takes it.
bool is_assignment(std::string_view word) {
  const std::size_t equals = word.find('=');
  if (equals == std::string_view::npos || equals == 0 || (word[0] >= '0' && word[0] <= '9')) {
    return false;
  }
  return std::all_of(word.begin(), word.begin() + static_cast<std::ptrdiff_t>(equals), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

bool is_path(std::string_view word) {
  return word.find('/') != std::string_view::npos;
}

bool is_folder(const fs::path& path) {
  std::error_code failure;
  return fs::is_directory(path, failure);
}

bool is_there(const fs::path& path) {
  std::error_code failure;
  return fs::exists(path, failure);
}

bool is_plain_file(const fs::path& path) {
  std::error_code failure;
  return fs::is_regular_file(path, failure);
}

/// A script with an interpreter, or a program of this machine, whether it may be executed or not.
bool is_program(const std::string& path) {
  char head[4] = {};
  std::ifstream file(path, std::ios::binary);
  file.read(head, sizeof head);
  const std::string_view begins(head, static_cast<std::size_t>(file.gcount()));
  return begins.starts_with("#!") || begins ==
                                         "\x7f"
                                         "ELF";
}

bool is_executable(const std::string& path) {
  return ::access(path.c_str(), X_OK) == 0;
}

bool is_on_path(const std::string& name) {
  const char* folders = std::getenv("PATH");
  const auto all = split(folders == nullptr ? "/usr/bin:/bin" : folders, ':');
  return std::any_of(all.begin(), all.end(), [&](std::string_view folder) {
    const fs::path program = fs::path(folder) / name;
    return is_plain_file(program) && is_executable(program.string());
  });
}

/// Has a task's name, or is a file that may be one.
bool reads_as_task(const std::string& word) {
  return word == "-" || has_suffix_of_task(word) ||
         (is_there(word) && !is_folder(word) && !is_program(word) && !has_suffix_of_code(word) &&
          (is_path(word) || !is_on_path(word)));
}

Error refusal(std::string message) {
  return error(ErrorCode::kInvalid, std::move(message));
}

/// "; did you mean ./train.py?" for a word that is looked for at `path`, or the end of the
/// sentence.
std::string guess(const std::string& word, const std::string& path) {
  const auto near = near_file(path);
  return near ? fmt::format("; did you mean {}{}?", word.substr(0, word.rfind('/') + 1),
                            near->substr(near->rfind('/') + 1))
              : ".";
}

Error too_many(const std::string& task, const std::string& word) {
  return refusal(
      is_assignment(word)
          ? fmt::format("{} is a task file, and '{}' is a word too many; did you mean --env {}?",
                        task, word, word)
          : fmt::format("{} is a task file, and '{}' is a word too many. If it is all a command, "
                        "put -- before it",
                        task, word));
}

/// A program that a job would look for in its work folder.
Status check_relative(const std::string& word, const WorkFolder& work) {
  const bool here = is_there(word);
  if (work.kind == WorkFolder::Kind::kNone) {
    return here ? refusal(fmt::format(
                      "{} is here and is not brought to the job; bring its folder with --workdir, "
                      "and name it from there",
                      word))
                : refusal(fmt::format("There is no file {}{}", word, guess(word, word)));
  }
  const fs::path brought = work.path / word;
  if (work.kind == WorkFolder::Kind::kUnknown) {
    return {};
  }
  if (!is_there(brought)) {
    return refusal(fmt::format("There is no file {} in {}, which becomes the job's folder{}", word,
                               work.path.string(), guess(word, brought.string())));
  }
  if (is_plain_file(brought) && !is_executable(brought.string())) {
    return refusal(
        fmt::format("{0} may not be executed: 'chmod +x {0}', or name what reads it, "
                    "such as 'bash {0}' or 'python {0}'",
                    word));
  }
  return {};
}

/// What a shell would look for in PATH alone.
Status check_name(const std::string& word) {
  if (is_on_path(word)) {
    return {};
  }
  const bool here = is_plain_file(word);
  if (here && is_executable(word)) {
    return refusal(
        fmt::format("{0} is a program of this folder, and a shell finds it only as "
                    "./{0}; if another one is meant, put -- before it",
                    word));
  }
  if (!has_suffix_of_file(word)) {
    return {};
  }
  return here ? refusal(fmt::format("{0} is no task file and no program; name what reads it, such "
                                    "as: quad launch --workdir . -- {1} {0}",
                                    word, word.ends_with(".py") ? "python" : "bash"))
              : refusal(fmt::format("There is no file {}{} If it is a command, put -- before it",
                                    word, guess(word, word)));
}

/// The word that a command begins with, where nobody has said by -- that it is one.
Status check_program(const std::string& word, const WorkFolder& work) {
  if (is_folder(word)) {
    const fs::path task = fs::path(word) / "task.yaml";
    return refusal(
        fmt::format("{} is a folder; name a task file{}, and what is to be brought with "
                    "--workdir. If it is a command, put -- before it",
                    word, is_there(task) ? fmt::format(" ({})", task.string()) : ""));
  }
  if (!is_path(word)) {
    return check_name(word);
  }
  // What is absolute may be there on the nodes alone.
  return fs::path(word).is_absolute() ? Status() : check_relative(word, work);
}

/// A line for a shell, not the name of anything.
bool is_shell_line(const std::string& word) {
  return word.find_first_of(" \t\r\n;&|<>()$`\"'*?{}[]!#\\~") != std::string::npos;
}

Status check_words(const std::vector<std::string>& words, std::size_t behind,
                   const WorkFolder& work) {
  const auto program = std::find_if_not(words.begin(), words.end(), is_assignment);
  if (program == words.end()) {
    return behind > 0 ? Status()
                      : Status(refusal(fmt::format("'{0}' is no command; did you mean --env {0}, "
                                                   "and then what to run?",
                                                   words.front())));
  }
  if (words.size() + behind == 1 && is_shell_line(*program) && !is_there(*program)) {
    return {};
  }
  return check_program(*program, work);
}

/// A file here that the command names and that will not be there.
std::string warning_of(const std::vector<std::string>& words, const WorkFolder& work) {
  if (work.kind != WorkFolder::Kind::kNone) {
    return {};
  }
  std::vector<std::string> named = words;
  if (words.size() == 1) {
    if (words[0].find_first_of(";&|<>()$`\"'*?\\\n") != std::string::npos) {
      return {};  // which may change the folder
    }
    named.clear();
    for (const std::string_view part : split(words[0], ' ')) {
      named.emplace_back(part);
    }
  }
  for (std::size_t i = 1; i < named.size(); ++i) {
    const fs::path path = named[i];
    if (!named[i].empty() && path.is_relative() && is_plain_file(path)) {
      return fmt::format(
          "{} is here and is not brought to the job; if it is needed there, bring its folder with "
          "--workdir.",
          named[i]);
    }
  }
  return {};
}

}  // namespace

Result<Entry> read_entry(const EntryWords& given, const WorkFolder& work) {
  std::vector<std::string> all = given.words;
  if (given.command) {
    all.insert(all.end(), given.command->begin(), given.command->end());
  }
  if (all.empty()) {
    return refusal("Name a task file, or a command: quad launch 'python train.py'");
  }
  const std::size_t behind = all.size() - given.words.size();
  const auto first = std::find_if_not(given.words.begin(), given.words.end(), is_assignment);
  // A shell line may end in the name of a YAML file, unless it is near to that of one that is here.
  const auto is_line = [&](const std::string& word) {
    return all.size() == 1 && is_shell_line(word) && !is_there(word) && !near_file(word);
  };
  if (first != given.words.end() && reads_as_task(*first) && !is_line(*first)) {
    if (all.size() > 1) {
      return too_many(*first, first == given.words.begin() ? all[1] : all[0]);
    }
    QUAD_ASSIGN(std::string text, read_task_text(*first));
    return Entry{*first, std::move(text), ""};
  }
  if (given.words.empty() && all.size() == 1 && (all[0] == "-" || has_suffix_of_task(all[0])) &&
      !is_line(all[0])) {
    QUAD_ASSIGN(std::string text, read_task_text(all[0]));
    return Entry{all[0], std::move(text), ""};
  }
  if (!given.words.empty()) {
    QUAD_TRY(check_words(given.words, behind, work));
  }
  Entry entry{"", "", warning_of(all, work)};
  if (all.size() == 1) {
    entry.text = all[0];
    return entry;
  }
  for (const std::string& word : all) {
    entry.text += (entry.text.empty() ? "" : " ") + shell_quote(word);
  }
  return entry;
}

}  // namespace quad::cli
