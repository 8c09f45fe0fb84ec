#include "engine/kubernetes/views/pod_end.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "engine/kubernetes/views/event_view.h"
#include "engine/kubernetes/views/pod_config.h"
#include "engine/kubernetes/views/quantity.h"
#include "job/record.h"

namespace quad::kubernetes {

namespace {

using How = job::RankEnd::How;
using State = ContainerView::State;

constexpr int kSignalBase = 128;

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

struct Cause {
  PodFate fate = PodFate::kNone;
  std::string words;
};

job::Verdict verdict_of(PodFate fate) {
  switch (fate) {
    case PodFate::kNone:
    case PodFate::kResult:
      return job::Verdict::kNone;
    case PodFate::kOutOfMemory:
    case PodFate::kOverDisk:
    case PodFate::kDeadline:
      return job::Verdict::kUser;
    case PodFate::kStopped:
      return job::Verdict::kCancelled;
    case PodFate::kPreempted:
      return job::Verdict::kPreempted;
    case PodFate::kDrained:
    case PodFate::kTainted:
    case PodFate::kNodeShutdown:
      return job::Verdict::kDrained;
    case PodFate::kEvicted:
      return job::Verdict::kEvicted;
    case PodFate::kDeleted:
      return job::Verdict::kDeleted;
    case PodFate::kRefused:
      return job::Verdict::kRefused;
    case PodFate::kNodeGone:
      return job::Verdict::kHardware;
    case PodFate::kVanished:
    case PodFate::kNotInstalled:
    case PodFate::kNotStarted:
      return job::Verdict::kPlatform;
  }
  return job::Verdict::kUnknown;
}

/// Whether it is somebody else than Quad and the job itself who ended the pod, and has said why.
bool is_taken(PodFate fate) {
  switch (fate) {
    case PodFate::kDeleted:
    case PodFate::kEvicted:
    case PodFate::kOverDisk:
    case PodFate::kPreempted:
    case PodFate::kDrained:
    case PodFate::kTainted:
    case PodFate::kNodeShutdown:
    case PodFate::kRefused:
    case PodFate::kDeadline:
      return true;
    case PodFate::kNone:
    case PodFate::kResult:
    case PodFate::kVanished:
    case PodFate::kOutOfMemory:
    case PodFate::kStopped:
    case PodFate::kNodeGone:  // a lost node is told as that
    case PodFate::kNotInstalled:
    case PodFate::kNotStarted:
      return false;
  }
  return false;
}

/// The cause that somebody has written into the pod: whoever disrupts it, or its kubelet.
Cause written_cause(const PodView& pod) {
  if (pod.reason == "Evicted") {
    const bool disk = has(pod.message, "ephemeral local storage") ||
                      has(pod.message, "ephemeral storage limit") ||
                      has(pod.message, "Usage of EmptyDir volume");
    return disk ? Cause{PodFate::kOverDisk, "used more disk than it may: " + shortened(pod.message)}
                : Cause{PodFate::kEvicted, "evicted by its node: " + shortened(pod.message)};
  }
  if (pod.reason == "DeadlineExceeded") {
    return {PodFate::kDeadline, "ran past the activeDeadlineSeconds of its pod_config"};
  }
  if (pod.reason == "Preempting") {
    return {PodFate::kPreempted, "stopped by its node for a pod that the system needs"};
  }
  if (pod.reason == "NodeShutdown" || pod.reason == "Terminated" || pod.reason == "Shutdown") {
    return {PodFate::kNodeShutdown, fmt::format("node {} shut down", pod.node)};
  }
  if (pod.reason == "NodeLost") {
    return {PodFate::kNodeGone, fmt::format("node {} was lost", pod.node)};
  }
  const Condition* disruption = pod.condition("DisruptionTarget");
  if (disruption == nullptr || disruption->status != "True") {
    return {};
  }
  const std::string_view reason = disruption->reason;
  const std::string said = shortened(disruption->message);
  if (reason == "PreemptionByScheduler") {
    return {PodFate::kPreempted, "preempted by kube-scheduler for a pod of higher priority"};
  }
  if (reason == "EvictionByEvictionAPI") {
    return {PodFate::kDrained, fmt::format("evicted from node {}: it is being drained", pod.node)};
  }
  if (reason == "DeletionByTaintManager") {
    return {PodFate::kTainted,
            fmt::format("taken off node {} by a NoExecute taint that the job does not tolerate",
                        pod.node)};
  }
  if (reason == "DeletionByPodGC") {
    return {PodFate::kNodeGone,
            fmt::format("node {} is no longer in the cluster, or out of service", pod.node)};
  }
  if (reason == "TerminationByKubelet") {
    return {PodFate::kEvicted, "stopped by its node" + (said.empty() ? said : ": " + said)};
  }
  return {PodFate::kDeleted, said.empty() ? std::string(reason) : said};
}

/// What a kubelet writes as the reason of a pod that it never began to run.
bool is_refusal(std::string_view reason) {
  constexpr std::array kReasons = {
      std::string_view("UnexpectedAdmissionError"),
      std::string_view("TopologyAffinityError"),
      std::string_view("NodeAffinity"),
      std::string_view("NodeName"),
      std::string_view("NodePorts"),
      std::string_view("InvalidNodeInfo"),
      std::string_view("PodOSNotSupported"),
      std::string_view("AppArmor"),
      std::string_view("NodeSelectorMismatching"),
      std::string_view("PodFeatureUnsupported"),
  };
  return reason.starts_with("OutOf") ||
         std::find(kReasons.begin(), kReasons.end(), reason) != kReasons.end();
}

/// What the runner left behind.
std::optional<job::RankEnd> result_of(const ContainerView& container) {
  if (!container.message.starts_with('{')) {
    return std::nullopt;
  }
  const Result<json::object> object = parse_json_object(container.message);
  if (!object.ok()) {
    return std::nullopt;
  }
  job::RankEnd end = job::rank_end_from_json(*object);
  if (job::to_string(end.how) != get_string(*object, "how")) {
    return std::nullopt;  // an end of no known kind must not pass for a success
  }
  if (end.at.millis == 0) {
    end.at = WallTime{get_int(*object, "at_ms")};
  }
  return end;
}

std::string memory_words(const PodView& pod) {
  if (pod.memory_limit <= 0) {
    return "killed: the node ran out of memory";
  }
  const std::string limit = format_bytes(pod.memory_limit);
  const std::string number = limit.substr(0, limit.find(' '));
  return fmt::format("killed: memory {}{} of {}", number, has(number, ".") ? "" : ".0", limit);
}

std::string exit_words(const ContainerView& container) {
  if (container.exit_code > kSignalBase) {
    return fmt::format("its runner was killed by signal {} and left no result",
                       container.exit_code - kSignalBase);
  }
  // With FallbackToLogsOnError the message is the end of the runner's own log.
  const std::string last = shortened(container.message);
  return fmt::format("its runner exited with code {} and left no result{}{}", container.exit_code,
                     last.empty() ? "" : ": ", last);
}

class Reader {
 public:
  Reader(const PodView& pod, bool ordered, bool gone)
      : pod_(pod), ordered_(ordered), gone_(gone), cause_(written_cause(pod)) {
    if (cause_.fate == PodFate::kNone && (pod.deleted || gone)) {
      cause_ = ordered ? Cause{PodFate::kStopped, "stopped by Quad"}
                       : Cause{PodFate::kDeleted, "its pod was deleted from outside Quad"};
    }
  }

  PodState read() {
    const ContainerView* main = pod_.rank_container();
    if (main != nullptr && main->state == State::kTerminated) {
      return ended_container(*main);
    }
    if (const ContainerView* init = failed_init(); init != nullptr && pod_.finished()) {
      return failed_install(*init);
    }
    if (pod_.finished() || gone_) {
      return ended_without_container();
    }
    if (cause_.fate != PodFate::kNone) {
      PodState state{.kind = PodState::Kind::kStopping,
                     .words = cause_.words,
                     .fate = cause_.fate,
                     .verdict = verdict_of(cause_.fate)};
      if (is_taken(cause_.fate)) {
        state.taken = job::Taken{state.verdict, state.words};
      }
      return state;
    }
    if (main != nullptr && main->state == State::kRunning) {
      return {.kind = PodState::Kind::kRunning};
    }
    return starting(main);
  }

 private:
  PodState end(PodFate fate, job::RankEnd end) const {
    PodState state;
    state.kind = PodState::Kind::kEnded;
    state.fate = fate;
    state.words = end.detail;
    state.verdict = verdict_of(fate);
    if (is_taken(fate)) {
      state.taken = job::Taken{state.verdict, state.words};
      end.verdict = state.verdict;
      end.by_quad = false;
    }
    state.end = std::move(end);
    return state;
  }

  PodState ended_container(const ContainerView& container) const {
    job::RankEnd end;
    if (auto result = result_of(container)) {
      end = std::move(*result);
      if (end.out_of_memory && !has(end.detail, "memory")) {
        end.detail = memory_words(pod_);
      }
      if (end.by_quad && !ordered_ && is_taken(cause_.fate)) {
        end.detail = cause_.words;  // all that the runner knew was that it had to stop
        return this->end(cause_.fate, std::move(end));
      }
      return this->end(end.out_of_memory ? PodFate::kOutOfMemory : PodFate::kResult,
                       std::move(end));
    }
    end.at = container.finished.value_or(WallTime{});
    end.by_quad = ordered_;
    if (container.reason == "OOMKilled") {
      end.how = How::kSignaled;
      end.code = 9;
      end.out_of_memory = true;
      end.detail = memory_words(pod_);
      return this->end(PodFate::kOutOfMemory, std::move(end));
    }
    if (container.reason == "StartError" || container.reason == "ContainerCannotRun") {
      end.how = How::kNeverRan;
      // Without a runner it cannot start either; then the reason is why none was brought.
      if (const ContainerView* installer = pod_.installer(); installer != nullptr) {
        if (installer->state == State::kTerminated && installer->exit_code != 0) {
          return failed_install(*installer);
        }
        if (in_trouble(*installer)) {
          PodState waiting;
          waits(*installer, false, waiting);
          end.detail = "the runner could not be brought: " + waiting.words;
          PodState state = this->end(PodFate::kNotInstalled, std::move(end));
          state.verdict = job::Verdict::kPlatform;
          return state;
        }
      }
      end.detail = "its container cannot be started: " + shortened(container.message);
      return this->end(PodFate::kNotStarted, std::move(end));
    }
    end.how = How::kGone;
    if (cause_.fate == PodFate::kNone) {
      end.detail = exit_words(container);
      return this->end(PodFate::kVanished, std::move(end));
    }
    if (cause_.fate == PodFate::kNodeGone) {
      end.how = How::kNodeLost;
      // Pod garbage collection marks the pod without asking the node.
      end.confirmed = container.reason != "ContainerStatusUnknown";
    }
    end.detail = cause_.words;
    return this->end(cause_.fate, std::move(end));
  }

  [[nodiscard]] const ContainerView* failed_init() const {
    const auto failed = std::find_if(pod_.init_containers.begin(), pod_.init_containers.end(),
                                     [](const ContainerView& one) {
                                       return one.state == State::kTerminated && one.exit_code != 0;
                                     });
    return failed == pod_.init_containers.end() ? nullptr : &*failed;
  }

  /// `init` brings the runner, or is an init container of the task's.
  PodState failed_install(const ContainerView& init) const {
    job::RankEnd end;
    end.how = How::kNeverRan;
    end.at = init.finished.value_or(WallTime{});
    end.by_quad = ordered_;
    if (cause_.fate != PodFate::kNone) {
      end.detail = cause_.words;
      return this->end(cause_.fate, std::move(end));
    }
    const bool own = init.name == kInstallContainer;
    end.in_setup = !own;  // the task's own container failed, by its own doing
    const std::string last = shortened(init.message);
    end.detail = fmt::format(
        "{} exited with code {}{}{}",
        own ? "bringing the runner into the pod" : fmt::format("init container '{}'", init.name),
        init.exit_code, last.empty() ? "" : ": ", last);
    PodState state = this->end(PodFate::kNotInstalled, std::move(end));
    state.verdict = own ? job::Verdict::kPlatform : job::Verdict::kUser;
    return state;
  }

  /// The pod has ended, and nothing tells how its container did.
  PodState ended_without_container() const {
    job::RankEnd end;
    end.by_quad = ordered_;
    const ContainerView* main = pod_.rank_container();
    const Condition* scheduled = pod_.condition("PodScheduled");
    const bool placed = !pod_.node.empty() || (scheduled && scheduled->status == "True");
    if (is_refusal(pod_.reason)) {
      end.how = How::kNeverRan;
      end.detail = fmt::format("node {} would not have it ({}): {}", pod_.node, pod_.reason,
                               shortened(pod_.message));
      return this->end(PodFate::kRefused, std::move(end));
    }
    Cause cause = cause_;
    if (cause.fate == PodFate::kNone) {
      cause = {PodFate::kVanished,
               fmt::format("its pod {}{}{}", pod_.phase == "Failed" ? "failed" : "ended",
                           pod_.message.empty() ? "" : ": ", shortened(pod_.message))};
    }
    // A kubelet that tells nothing of the containers says no more than that they may have run.
    const bool ran = main == nullptr ? placed : main->state == State::kRunning;
    end.how = cause.fate == PodFate::kNodeGone ? How::kNodeLost : ran ? How::kGone : How::kNeverRan;
    // A kubelet reports the end of a pod's containers before it lets the pod go. Where it did not,
    // the pod was force-deleted, or its node removed, and may run on; unless it never began.
    end.confirmed = !placed || (pod_.finished() && cause.fate != PodFate::kNodeGone);
    end.detail = cause.words;
    if (!end.confirmed && cause.fate != PodFate::kNodeGone) {
      end.detail += ", without its node telling that it ended";
    }
    return this->end(cause.fate, std::move(end));
  }

  PodState starting(const ContainerView* main) const {
    PodState state;
    const Condition* scheduled = pod_.condition("PodScheduled");
    if (pod_.node.empty() && (scheduled == nullptr || scheduled->status != "True")) {
      state.words = scheduled == nullptr || scheduled->message.empty()
                        ? "waits for kube-scheduler"
                        : "kube-scheduler cannot place it: " +
                              scheduling_in_words(scheduled->message, pod_.wanted_node);
      return state;
    }
    const ContainerView* installer = pod_.installer();
    if (installer != nullptr && in_trouble(*installer)) {
      waits(*installer, false, state);
      return state;
    }
    for (const ContainerView& init : pod_.init_containers) {
      if (&init == installer) {
        continue;
      }
      if (in_trouble(init)) {
        waits(init, true, state);
        return state;
      }
      if (init.state == State::kRunning) {
        state.words = fmt::format("runs the init container '{}'", init.name);
        return state;
      }
    }
    if (main != nullptr && in_trouble(*main)) {
      waits(*main, true, state);
      return state;
    }
    const Condition* sandbox = pod_.condition("PodReadyToStartContainers");
    if (pod_.init_containers.empty() && pod_.containers.empty()) {
      state.words = fmt::format("waits for node {}", pod_.node);
    } else if (sandbox != nullptr && sandbox->status == "False") {
      state.words = fmt::format("node {} prepares its volumes and network", pod_.node);
    } else {
      state.words = fmt::format("node {} prepares its containers", pod_.node);
    }
    return state;
  }

  /// It waits, and not only for its turn.
  static bool in_trouble(const ContainerView& container) {
    const std::string_view reason = container.reason;
    return container.state == State::kWaiting && !reason.empty() && reason != "ContainerCreating" &&
           reason != "PodInitializing";
  }

  /// A container that cannot start yet, or never.
  void waits(const ContainerView& container, bool of_task, PodState& state) const {
    const std::string_view reason = container.reason;
    job::RankEnd end;
    end.how = How::kNeverRan;
    end.in_setup = of_task;
    if (reason == "ErrImagePull" || reason == "ImagePullBackOff" ||
        reason == "RegistryUnavailable") {
      PullFailure failure = pull_failure(container.image, container.message);
      state.words = std::move(failure.words);
      state.hopeless = failure.hopeless;
    } else if (reason == "InvalidImageName") {
      state.words = fmt::format("'{}' is no name of an image", container.image);
      state.hopeless = true;
    } else if (reason == "ErrImageNeverPull") {
      state.words = fmt::format("image '{}' is not on node {}, and may not be pulled",
                                container.image, pod_.node);
      state.hopeless = true;
    } else {
      EventView event;
      event.reason = "Failed";
      event.message = container.message;
      event.warning = true;
      state.words = container.message.empty() ? fmt::format("a container waits: {}", reason)
                                              : event_in_words(event);
      // A Secret or ConfigMap that is missing may still be made; a user id will not change.
      state.hopeless =
          reason == "CreateContainerConfigError" && has(container.message, "runAsNonRoot");
    }
    if (state.hopeless) {
      state.fate = PodFate::kNotStarted;
      state.verdict = of_task ? job::Verdict::kUser : job::Verdict::kPlatform;
      end.detail = state.words;
      state.end = std::move(end);
    }
  }

  const PodView& pod_;
  bool ordered_;
  bool gone_;
  Cause cause_;
};

}  // namespace

std::string_view to_string(PodFate fate) {
  constexpr std::array<std::string_view, 17> kNames = {
      "none",      "result",    "vanished",  "out_of_memory", "deleted",    "stopped",
      "evicted",   "over_disk", "preempted", "drained",       "tainted",    "node_shutdown",
      "node_gone", "refused",   "deadline",  "not_installed", "not_started"};
  return kNames[static_cast<std::size_t>(fate)];
}

PodState state_of(const PodView& pod, bool ordered, bool gone) {
  return Reader(pod, ordered, gone).read();
}

}  // namespace quad::kubernetes
