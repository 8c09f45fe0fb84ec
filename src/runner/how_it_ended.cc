#include "runner/how_it_ended.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>

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

void tell_of_memory(RankResult& result, const RankProcess& rank) {
  const bool failed = result.how == "signaled" || result.code != 0;
  // A shell whose child was killed ends with 128 + 9.
  const bool looks_killed = result.code == (result.how == "signaled" ? SIGKILL : 128 + SIGKILL);
  // The container's own count is of other ranks' kills too, so it is asked only then.
  if (!failed || !(looks_killed || rank.memory().limited())) {
    return;
  }
  const MemoryFacts memory = rank.memory().read();
  if (memory.oom_kills > rank.memory_at_start().oom_kills) {
    result.out_of_memory = true;
    result.detail = out_of_memory_text(memory.peak_bytes, memory.limit_bytes);
  }
}

}  // namespace quad::runner
