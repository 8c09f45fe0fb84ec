// What the variables of a task come to when its programs are started: what Linux will refuse, and
// what stays as it is though it looks like a shell's.

#include <algorithm>
#include <unordered_set>

#include <fmt/format.h>

#include "spec/grammar.h"
#include "spec/letters.h"
#include "spec/readers.h"
#include "spec/task_grammar.h"

namespace quad::spec {

namespace {

// MAX_ARG_STRLEN: of "NAME=value" and its end.
constexpr std::size_t kMostOne = 128U << 10U;
// execve() takes a quarter of the stack's limit, which is 8 MiB nearly everywhere; some of it is
// for what the node sets, Quad's own variables and the arguments.
constexpr std::size_t kMostTogether = (2U << 20U) - (256U << 10U);
constexpr std::size_t kPointer = 8;

/// The name of the next $NAME or ${NAME} from `at` on, which it moves past it; empty at the end.
/// `braced`: whether it is the latter.
std::string_view next_reference(std::string_view value, std::size_t& at, bool& braced) {
  while ((at = value.find('$', at)) != std::string_view::npos) {
    std::size_t start = ++at;
    braced = start < value.size() && value[start] == '{';
    start += braced ? 1U : 0U;
    std::size_t end = start;
    while (end < value.size() && (is_alphanumeric(value[end]) || value[end] == '_')) {
      ++end;
    }
    const bool closed = !braced || (end < value.size() && value[end] == '}');
    if (const auto name = value.substr(start, end - start); closed && is_env_name(name)) {
      at = end;
      return name;
    }
  }
  return {};
}

bool is_upper_case(std::string_view name) {
  return std::none_of(name.begin(), name.end(), [](char c) { return c >= 'a' && c <= 'z'; });
}

/// What in the value is likely meant for a shell: "$HOME". Prices and passwords have dollars too.
std::string_view likely_reference(const TaskVariable& variable,
                                  const std::unordered_set<std::string_view>& known) {
  const bool is_path = variable.name.ends_with("PATH");
  std::size_t at = 0;
  bool braced = false;
  for (;;) {
    const std::string_view name = next_reference(variable.value, at, braced);
    if (name.empty()) {
      return {};
    }
    if (is_path || braced || is_upper_case(name) || known.contains(name)) {
      return variable.value.substr(at - name.size() - (braced ? 2U : 1U),
                                   name.size() + (braced ? 3U : 1U));
    }
  }
}

}  // namespace

void check_variables(const std::vector<TaskVariable>& all, Issues& issues) {
  std::unordered_set<std::string_view> known;
  for (const TaskVariable& variable : all) {
    known.insert(variable.name);
  }
  std::size_t together = 0;
  for (const TaskVariable& variable : all) {
    const std::string group = variable.secret ? "secrets" : "envs";
    // The name of a secret in the wrong shape may be the secret.
    const std::string key = is_env_name(variable.name) ? join_path(group, variable.name) : group;
    const std::size_t bytes = variable.name.size() + variable.value.size() + 2;
    together += bytes + kPointer;
    if (bytes > kMostOne) {
      issues.fail(key, variable.mark,
                  fmt::format("the variable has {} bytes with its name; Linux starts no program "
                              "with one of more than {}. Bring a file instead, and give its path",
                              bytes, kMostOne));
    }
    if (variable.secret) {
      continue;
    }
    if (const auto reference = likely_reference(variable, known); !reference.empty()) {
      issues.warn(
          key, variable.mark,
          fmt::format("{0} in it stays as it is, as values are not read by a shell", reference),
          fmt::format("write it in run: export {}=…{}…", variable.name, reference));
    }
  }
  if (together > kMostTogether) {
    issues.fail("envs", all.front().mark,
                fmt::format("the variables have {} bytes together; Linux starts no program with "
                            "more than {}. Bring a file instead, and give its path",
                            together, kMostTogether));
  }
}

}  // namespace quad::spec
