#include "runner/how_it_ended.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>

namespace quad::runner {

RankResult result_of_script(int wait_status) {
  RankResult result;
  if (WIFSIGNALED(wait_status)) {
    result.how = "signaled";
    result.code = WTERMSIG(wait_status);
    result.detail = fmt::format("killed by signal {} ({})", result.code, ::strsignal(result.code));
  } else {
    result.code = WEXITSTATUS(wait_status);
  }
  return result;
}

void tell_of_memory(RankResult& result, const ControlGroups& groups, const MemoryFacts& at_start) {
  const bool failed = result.how == "signaled" || result.code != 0;
  // A shell whose child was killed ends with 128 + 9.
  const bool looks_killed = result.code == (result.how == "signaled" ? SIGKILL : 128 + SIGKILL);
  // The container's own count is of other ranks' kills too, so it is asked only then.
  if (!failed || !(looks_killed || groups.limit_memory())) {
    return;
  }
  const MemoryFacts memory = groups.memory();
  if (memory.oom_kills > at_start.oom_kills) {
    result.out_of_memory = true;
    result.detail = out_of_memory_text(memory.peak_bytes, memory.limit_bytes);
  }
}

void tell_of_long_variables(RankResult& result, const Order& order) {
  constexpr std::size_t kLongest = 32 * 4096;  // "NAME=value" and its end
  constexpr int kCannotStart = 126;
  if (result.how != "exited" || result.code != kCannotStart || !result.detail.empty()) {
    return;
  }
  std::size_t all = 0;
  for (const std::vector<Variable>* variables : {&order.envs, &order.secrets}) {
    for (const Variable& variable : *variables) {
      const std::size_t size = variable.name.size() + variable.value.size() + 2;
      if (size > kLongest) {
        result.detail = fmt::format(
            "the variable {} is too long: no program can be started with one of more than {} bytes",
            variable.name, kLongest - 1);
        return;
      }
      all += size;
    }
  }
  rlimit stack{};
  const std::size_t most = ::getrlimit(RLIMIT_STACK, &stack) == 0
                               ? std::clamp<rlim_t>(stack.rlim_cur / 4, kLongest, 6U << 20U)
                               : 6U << 20U;
  if (all > most) {
    result.detail = fmt::format(
        "the task's variables are too long together: no program can be started with more than {} "
        "bytes of them",
        most);
  }
}

}  // namespace quad::runner
