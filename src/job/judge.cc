#include "job/judge.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>

namespace quad::job {

namespace {

/// The signal that killed a rank's process, or 0. A shell whose command was killed by signal N
/// exits with 128 + N: for those that come from outside, that is how such a death is seen.
int killing_signal(const RankEnd& end) {
  if (end.how == RankEnd::How::kSignaled) {
    return end.code;
  }
  if (end.how == RankEnd::How::kExited &&
      (end.code == 128 + SIGKILL || end.code == 128 + SIGTERM)) {
    return end.code - 128;
  }
  return 0;
}

/// Signals that a process brings on itself by a fault of its own.
bool is_own_fault(int signal) {
  constexpr std::array kOwn = {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSYS, SIGPIPE, SIGTRAP};
  return std::find(kOwn.begin(), kOwn.end(), signal) != kOwn.end();
}

}  // namespace

bool ended_well(const RankEnd& end) {
  return end.how == RankEnd::How::kExited && end.code == 0 && !end.out_of_memory;
}

Judgement judge(const RankEnd& end, std::size_t rank, const std::string& node) {
  const std::string who = fmt::format("rank {} on {}", rank, node);
  const std::string because = end.detail.empty() ? "" : fmt::format(" ({})", end.detail);
  if (end.how == RankEnd::How::kNodeLost) {
    return {6, Verdict::kHardware, Cause::kHardware,
            fmt::format("node {} was lost{}", node, because), 1};
  }
  if (end.verdict != Verdict::kNone) {
    // Told by whoever ended it: nothing has to be guessed.
    const bool limit = end.verdict == Verdict::kUser;
    const std::string_view what = limit                              ? "was stopped"
                                  : end.verdict == Verdict::kRefused ? "could not start"
                                                                     : "was taken away";
    return {limit ? 3 : 5, end.verdict, limit ? Cause::kLimit : cause_of(end.verdict),
            fmt::format("{} {}: {}", who, what, end.detail), 1};
  }
  if (end.by_quad) {
    return {0, Verdict::kSuccess, Cause::kNone, {}, 0};
  }
  if (end.out_of_memory) {
    return {3, Verdict::kUser, Cause::kLimit,
            fmt::format("{} was killed for memory{}", who, because), 137};
  }
  if (end.how == RankEnd::How::kGone) {
    return {5, Verdict::kPlatform, Cause::kInternal, fmt::format("{} vanished{}", who, because), 1};
  }
  if (end.how == RankEnd::How::kNeverRan) {
    if (end.in_setup) {
      return {2, Verdict::kUser, Cause::kSetup,
              fmt::format("{} could not be set up{}", who, because), 1};
    }
    return {5, Verdict::kPlatform, Cause::kInternal,
            fmt::format("{} could not start{}", who, because), 1};
  }
  if (const int signal = killing_signal(end); signal != 0) {
    const std::string name =
        fmt::format("SIG{}", sigabbrev_np(signal) ? sigabbrev_np(signal) : "?");
    if (is_own_fault(signal)) {
      return {2, Verdict::kUser, end.in_setup ? Cause::kSetup : Cause::kUser,
              fmt::format("{} died of {}", who, name), 128 + signal};
    }
    return {4, Verdict::kPlatform, Cause::kInternal,
            fmt::format("{} was killed by {} from outside", who, name), 128 + signal};
  }
  if (end.code != 0) {
    return {2, Verdict::kUser, end.in_setup ? Cause::kSetup : Cause::kUser,
            fmt::format("{}{} exited with code {}{}", end.in_setup ? "the setup of " : "", who,
                        end.code, because),
            end.code};
  }
  return {1, Verdict::kSuccess, Cause::kNone, "every rank exited with code 0", 0};
}

/// The strongest judgement over all ranks; among equals the earliest end decides, then the lowest
/// rank.
Judgement judge(const Attempt& attempt) {
  Judgement best;
  WallTime best_at;
  for (std::size_t i = 0; i < attempt.ranks.size(); ++i) {
    const RankRecord& rank = attempt.ranks[i];
    Judgement one = judge(*rank.end, i, rank.holding.node.value());
    if (one.weight > best.weight || (one.weight == best.weight && rank.end->at < best_at)) {
      best = std::move(one);
      best_at = rank.end->at;
    }
  }
  return best;
}

}  // namespace quad::job
