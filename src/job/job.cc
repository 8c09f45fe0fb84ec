#include "job/job.h"

#include <fmt/format.h>

#include <algorithm>

namespace quad::job {

bool is_terminal(Status status) {
  return status == Status::kSucceeded || status == Status::kFailed || status == Status::kCancelled;
}

std::string_view to_string(Kind kind) {
  switch (kind) {
    case Kind::kBatch:
      return "batch";
    case Kind::kSession:
      return "session";
    case Kind::kService:
      return "service";
    case Kind::kHolder:
      return "holder";
  }
  return "batch";
}

std::string_view to_string(Status status) {
  switch (status) {
    case Status::kPending:
      return "PENDING";
    case Status::kStarting:
      return "STARTING";
    case Status::kRunning:
      return "RUNNING";
    case Status::kRecovering:
      return "RECOVERING";
    case Status::kCancelling:
      return "CANCELLING";
    case Status::kSucceeded:
      return "SUCCEEDED";
    case Status::kFailed:
      return "FAILED";
    case Status::kCancelled:
      return "CANCELLED";
  }
  return "PENDING";
}

std::string_view to_string(Cause cause) {
  switch (cause) {
    case Cause::kNone:
      return "";
    case Cause::kUser:
      return "user";
    case Cause::kSetup:
      return "setup";
    case Cause::kHardware:
      return "hardware";
    case Cause::kPreempted:
      return "preempted";
    case Cause::kLimit:
      return "limit";
    case Cause::kNoResource:
      return "no-resource";
    case Cause::kInternal:
      return "internal";
  }
  return "";
}

std::string_view to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::kNone:
      return "";
    case Verdict::kSuccess:
      return "success";
    case Verdict::kUser:
      return "user";
    case Verdict::kHardware:
      return "hardware";
    case Verdict::kPreempted:
      return "preempted";
    case Verdict::kDrained:
      return "drained";
    case Verdict::kEvicted:
      return "evicted";
    case Verdict::kDeleted:
      return "deleted";
    case Verdict::kRefused:
      return "refused";
    case Verdict::kPlatform:
      return "platform";
    case Verdict::kCancelled:
      return "cancelled";
    case Verdict::kUnknown:
      return "unknown";
  }
  return "";
}

Cause cause_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::kNone:
    case Verdict::kSuccess:
    case Verdict::kCancelled:
      return Cause::kNone;
    case Verdict::kUser:
      return Cause::kUser;
    case Verdict::kHardware:
      return Cause::kHardware;
    case Verdict::kPreempted:
    case Verdict::kDrained:
    case Verdict::kEvicted:
      return Cause::kPreempted;
    case Verdict::kDeleted:
    case Verdict::kRefused:
    case Verdict::kPlatform:
    case Verdict::kUnknown:
      return Cause::kInternal;
  }
  return Cause::kInternal;
}

std::string_view to_string(RankPhase phase) {
  switch (phase) {
    case RankPhase::kOrdered:
      return "ordered";
    case RankPhase::kConnected:
      return "connected";
    case RankPhase::kSettingUp:
      return "setting_up";
    case RankPhase::kReady:
      return "ready";
    case RankPhase::kRunning:
      return "running";
    case RankPhase::kEnded:
      return "ended";
  }
  return "ended";
}

std::string_view to_string(RankEnd::How how) {
  switch (how) {
    case RankEnd::How::kExited:
      return "exited";
    case RankEnd::How::kSignaled:
      return "signaled";
    case RankEnd::How::kGone:
      return "gone";
    case RankEnd::How::kNodeLost:
      return "node_lost";
    case RankEnd::How::kNeverRan:
      return "never_ran";
  }
  return "exited";
}

const Attempt* Job::live() const {
  return attempts.empty() || attempts.back().ended_at ? nullptr : &attempts.back();
}

Attempt* Job::live() {
  return attempts.empty() || attempts.back().ended_at ? nullptr : &attempts.back();
}

Epoch Job::epoch() const {
  return attempts.empty() ? Epoch(0) : attempts.back().epoch;
}

std::string_view skypilot_status(const Job& job) {
  if (job.status != Status::kFailed) {
    return to_string(job.status);
  }
  switch (job.cause) {
    case Cause::kSetup:
      return "FAILED_SETUP";
    case Cause::kNoResource:
      return "FAILED_NO_RESOURCE";
    case Cause::kInternal:
    case Cause::kHardware:
      return "FAILED_CONTROLLER";
    default:
      return "FAILED";
  }
}

bool is_in_charge(const Job& job, const RankKey& key, std::string_view nonce) {
  const Attempt* attempt = job.live();
  const auto at = static_cast<std::size_t>(key.rank.value());
  if (attempt == nullptr || attempt->epoch != key.epoch || at >= attempt->ranks.size()) {
    return false;
  }
  const RankRecord& rank = attempt->ranks[at];
  return !rank.nonce.empty() && rank.nonce == nonce && !rank.end;
}

bool may_still_act(const RankRecord& rank) {
  return !rank.end || (!rank.end->confirmed && !rank.nonce.empty());
}

bool earlier_ranks_are_dead(const Job& job) {
  const auto last = job.attempts.empty() ? job.attempts.end() : std::prev(job.attempts.end());
  return std::all_of(job.attempts.begin(), last, [](const Attempt& attempt) {
    return std::all_of(attempt.ranks.begin(), attempt.ranks.end(),
                       [](const RankRecord& rank) { return !may_still_act(rank); });
  });
}

std::string check(const Job& job) {
  if (job.request == nullptr) {
    return "it has no request";
  }
  std::int32_t expected = 0;
  for (const Attempt& attempt : job.attempts) {
    if (attempt.epoch != Epoch(++expected)) {
      return fmt::format("attempt {} is numbered {}", expected, attempt.epoch.value());
    }
    if (attempt.ranks.size() != static_cast<std::size_t>(job.request->ranks)) {
      return fmt::format("attempt {} has {} ranks instead of {}", expected, attempt.ranks.size(),
                         job.request->ranks);
    }
    if (attempt.shape < 0 ||
        static_cast<std::size_t>(attempt.shape) >= job.request->shapes.size()) {
      return fmt::format("attempt {} was placed with shape {}, of {} that there are", expected,
                         attempt.shape, job.request->shapes.size());
    }
    const bool all_ended = std::all_of(attempt.ranks.begin(), attempt.ranks.end(),
                                       [](const RankRecord& rank) { return rank.end.has_value(); });
    if (attempt.ended_at.has_value() != all_ended) {
      return fmt::format("attempt {} and its ranks disagree on whether it ended", expected);
    }
    if (!attempt.ended_at && &attempt != &job.attempts.back()) {
      return fmt::format("attempt {} is live but not the last", expected);
    }
    for (const RankRecord& rank : attempt.ranks) {
      if (rank.end.has_value() != (rank.phase == RankPhase::kEnded)) {
        return fmt::format("a rank of attempt {} is {} and has {}end", expected,
                           to_string(rank.phase), rank.end ? "an " : "no ");
      }
    }
  }
  const bool live = job.live() != nullptr;
  if (is_terminal(job.status) && (live || !job.ended_at)) {
    return fmt::format("it is {} and yet not over", to_string(job.status));
  }
  if (job.status == Status::kPending && !job.attempts.empty()) {
    return "it is PENDING and has an attempt";
  }
  if ((job.status == Status::kStarting || job.status == Status::kRunning ||
       job.status == Status::kCancelling) &&
      !live) {
    return fmt::format("it is {} without a live attempt", to_string(job.status));
  }
  return {};
}

}  // namespace quad::job
