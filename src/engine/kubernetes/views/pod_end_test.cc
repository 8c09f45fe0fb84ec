#include "engine/kubernetes/views/pod_end.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "engine/kubernetes/views/test_json.h"
#include "job/judge.h"
#include "runner/rank_result.h"

namespace quad::kubernetes {
namespace {

using Kind = PodState::Kind;
using How = job::RankEnd::How;

// Parts of a pod's JSON, as kube-apiserver 1.34 gives them.
constexpr std::string_view kScheduled = R"({"type": "PodScheduled", "status": "True"})";
constexpr std::string_view kInstalled =
    R"("initContainerStatuses": [{"name": "quad-install", "image": "quad:1",
  "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}])";
constexpr std::string_view kRunning = R"({"running": {"startedAt": "2026-11-25T10:00:04Z"}})";

std::string rank(std::string_view state) {
  return fmt::format(
      R"({}, "containerStatuses": [{{"name": "rank", "image": "train:1", "state": {}}}])",
      kInstalled, state);
}

/// The rank's container could not be started, beside one that is to bring the runner.
std::string without_runner(std::string_view installer) {
  return fmt::format(
      R"("phase": "Failed", "containerStatuses": [
           {{"name": "quad-install", "image": "quad:1", "state": {}}},
           {{"name": "rank", "state": {{"terminated": {{"exitCode": 128, "reason": "StartError",
             "message": "exec: \"/quad/quad-runner\": no such file or directory"}}}}}}])",
      installer);
}

std::string terminated(int code, std::string_view reason, std::string_view message = "") {
  return rank(fmt::format(
      R"({{"terminated": {{"exitCode": {}, "reason": "{}", "message": {}, "finishedAt": "2026-11-25T11:00:00Z"}}}})",
      code, reason, to_text(json::value(message))));
}

std::string waiting(std::string_view reason, std::string_view message = "") {
  return rank(fmt::format(R"({{"waiting": {{"reason": "{}", "message": {}}}}})", reason,
                          to_text(json::value(message))));
}

std::string disruption(std::string_view reason, std::string_view message = "") {
  return fmt::format(
      R"("conditions": [{}, {{"type": "DisruptionTarget", "status": "True", "reason": "{}", "message": "{}"}}])",
      kScheduled, reason, message);
}

struct Pod {
  std::string status;    ///< members of `status`
  bool deleted = false;  ///< deletionTimestamp
  std::string node = "gpu-07";
};

PodView view_of(const Pod& pod) {
  const std::string text = fmt::format(
      R"({{"metadata": {{"name": "quad-1a2b3c4d-j17-e2-r0"{}}},
          "spec": {{{} "affinity": {{"nodeAffinity": {{"requiredDuringSchedulingIgnoredDuringExecution": {{"nodeSelectorTerms": [
                     {{"matchFields": [{{"key": "metadata.name", "operator": "In", "values": ["gpu-07"]}}]}}]}}}}}},
                   "containers": [{{"name": "rank", "resources": {{"limits": {{"memory": "64Gi"}}}}}}]}},
          "status": {{{}}}}})",
      pod.deleted
          ? R"(, "deletionTimestamp": "2026-11-25T11:00:00Z", "deletionGracePeriodSeconds": 45)"
          : "",
      pod.node.empty() ? "" : fmt::format(R"("nodeName": "{}",)", pod.node), pod.status);
  return *read_pod(object_of(text), "1a2b3c4d");
}

struct Start {
  std::string_view what;
  Pod pod;
  std::string_view words;
  bool hopeless = false;
};

TEST(PodState, OfAPodThatStartsSaysWhatItWaitsFor) {
  const Start all[] = {
      {"just made", {R"("phase": "Pending")", false, ""}, "waits for kube-scheduler"},
      {"no room",
       {R"("phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
           "message": "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't match Pod's node affinity/selector."}])",
        false, ""},
       "kube-scheduler cannot place it: node gpu-07 has not enough CPUs free"},
      {"bound",
       {fmt::format(R"("phase": "Pending", "conditions": [{}])", kScheduled)},
       "waits for node gpu-07"},
      {"volumes and network",
       {fmt::format(
           R"("phase": "Pending", "conditions": [{}, {{"type": "PodReadyToStartContainers", "status": "False"}}], {})",
           kScheduled, waiting("PodInitializing"))},
       "node gpu-07 prepares its volumes and network"},
      {"containers",
       {fmt::format(R"("phase": "Pending", {})", waiting("ContainerCreating"))},
       "node gpu-07 prepares its containers"},
      {"no such image",
       {fmt::format(
           R"("phase": "Pending", {})",
           waiting("ErrImagePull", "failed to resolve reference \"train:1\": train:1: not found"))},
       "image 'train:1' does not exist; check its name and tag",
       true},
      {"backing off",
       {fmt::format(
           R"("phase": "Pending", {})",
           waiting("ImagePullBackOff",
                   R"(Back-off pulling image "train:1": ErrImagePull: train:1: not found)"))},
       "image 'train:1' does not exist; check its name and tag",
       true},
      {"registry down",
       {fmt::format(
           R"("phase": "Pending", {})",
           waiting("ErrImagePull", "dial tcp 10.0.0.5:5000: connect: connection refused"))},
       "image 'train:1' cannot be pulled: its registry cannot be reached from the node (no "
       "connection); Kubernetes tries again"},
      {"bad name",
       {fmt::format(R"("phase": "Pending", {})", waiting("InvalidImageName", "x"))},
       "'train:1' is no name of an image",
       true},
      {"missing secret",
       {fmt::format(R"("phase": "Pending", {})",
                    waiting("CreateContainerConfigError", R"(secret "hf" not found)"))},
       "a container cannot be started: there is no Secret 'hf'"},
      {"root image",
       {fmt::format(R"("phase": "Pending", {})",
                    waiting("CreateContainerConfigError",
                            "container has runAsNonRoot and image will run as root (pod: \"x\", "
                            "container: rank)"))},
       "a container cannot be started: the image runs as root, which is not permitted here",
       true},
      {"Quad's own image",
       {R"("phase": "Pending", "initContainerStatuses": [{"name": "quad-install", "image": "quad:1",
           "state": {"waiting": {"reason": "ErrImagePull", "message": "quad:1: not found"}}}])"},
       "image 'quad:1' does not exist; check its name and tag",
       true},
      {"Quad's own image, beside the rank's",
       {R"("phase": "Pending", "containerStatuses": [{"name": "quad-install", "image": "quad:1",
           "state": {"waiting": {"reason": "ImagePullBackOff", "message": "quad:1: not found"}}},
           {"name": "rank", "state": {"waiting": {"reason": "ContainerCreating"}}}])"},
       "image 'quad:1' does not exist; check its name and tag",
       true},
      {"own init container",
       {R"("phase": "Pending", "initContainerStatuses": [{"name": "quad-install", "state": {"terminated": {"exitCode": 0}}},
                                                         {"name": "fetch", "state": {"running": {}}}])"},
       "runs the init container 'fetch'"},
  };
  for (const Start& one : all) {
    const PodState state = state_of(view_of(one.pod), false, false);
    EXPECT_EQ(state.kind, Kind::kStarting) << one.what;
    EXPECT_EQ(state.words, one.words) << one.what;
    EXPECT_EQ(state.hopeless, one.hopeless) << one.what;
    EXPECT_EQ(state.end.has_value(), one.hopeless) << one.what;
  }
}

TEST(PodState, BlamesTheTaskForItsImageAndThePlatformForQuads) {
  const PodState task =
      state_of(view_of({fmt::format(R"("phase": "Pending", {})",
                                    waiting("ErrImagePull", "train:1: not found"))}),
               false, false);
  EXPECT_EQ(task.verdict, job::Verdict::kUser);
  EXPECT_EQ(job::judge(*task.end, 0, "gpu-07").verdict, job::Verdict::kUser);
  EXPECT_EQ(job::judge(*task.end, 0, "gpu-07").reason,
            "rank 0 on gpu-07 could not be set up (image 'train:1' does not exist; check its name "
            "and tag)");
  const PodState own = state_of(
      view_of(
          {R"("phase": "Pending", "initContainerStatuses": [{"name": "quad-install", "image": "quad:1",
           "state": {"waiting": {"reason": "ErrImagePull", "message": "quad:1: not found"}}}])"}),
      false, false);
  EXPECT_EQ(own.verdict, job::Verdict::kPlatform);
  EXPECT_EQ(job::judge(*own.end, 0, "gpu-07").verdict, job::Verdict::kPlatform);
}

TEST(PodState, OfAPodThatRunsIsRunning) {
  EXPECT_EQ(
      state_of(view_of({fmt::format(R"("phase": "Running", {})", rank(kRunning))}), false, false)
          .kind,
      Kind::kRunning);
}

struct Ending {
  std::string_view what;
  Pod pod;
  bool ordered = false;
  bool gone = false;
  Kind kind = Kind::kEnded;
  PodFate fate = PodFate::kNone;
  job::Verdict verdict = job::Verdict::kNone;
  How how = How::kGone;
  bool confirmed = true;
  std::string_view words;
};

std::string running() {
  return fmt::format(R"("phase": "Running", {})", rank(kRunning));
}

std::string failed(std::string_view more) {
  return fmt::format(R"("phase": "Failed", {})", more);
}

TEST(PodState, OfAPodThatEndsHasItsOwnVerdict) {
  using V = job::Verdict;
  const Ending all[] = {
      {"the runner's result",
       {failed(terminated(0, "Completed", R"({"how":"exited","code":3,"at_ms":1764068400000})"))},
       false,
       false,
       Kind::kEnded,
       PodFate::kResult,
       V::kNone,
       How::kExited,
       true,
       ""},
      {"no result",
       {failed(terminated(1, "Error", "cannot read start.json\n"))},
       false,
       false,
       Kind::kEnded,
       PodFate::kVanished,
       V::kPlatform,
       How::kGone,
       true,
       "its runner exited with code 1 and left no result: cannot read start.json"},
      {"killed",
       {failed(terminated(137, "Error"))},
       false,
       false,
       Kind::kEnded,
       PodFate::kVanished,
       V::kPlatform,
       How::kGone,
       true,
       "its runner was killed by signal 9 and left no result"},
      {"out of memory",
       {failed(terminated(137, "OOMKilled"))},
       false,
       false,
       Kind::kEnded,
       PodFate::kOutOfMemory,
       V::kUser,
       How::kSignaled,
       true,
       "killed: memory 64.0 of 64 GiB"},
      {"out of memory, as the runner saw",
       {failed(terminated(0, "Completed", R"({"how":"signaled","code":9,"out_of_memory":true})"))},
       false,
       false,
       Kind::kEnded,
       PodFate::kOutOfMemory,
       V::kUser,
       How::kSignaled,
       true,
       "killed: memory 64.0 of 64 GiB"},
      {"no such command",
       {failed(terminated(128, "StartError", "exec: \"/quad/quad-runner\": permission denied"))},
       false,
       false,
       Kind::kEnded,
       PodFate::kNotStarted,
       V::kPlatform,
       How::kNeverRan,
       true,
       "its container cannot be started: exec: \"/quad/quad-runner\": permission denied"},
      {"being deleted by hand",
       {running(), true},
       false,
       false,
       Kind::kStopping,
       PodFate::kDeleted,
       V::kDeleted,
       How::kGone,
       true,
       "its pod was deleted from outside Quad"},
      {"deleted by hand",
       {failed(terminated(143, "Error")), true},
       false,
       false,
       Kind::kEnded,
       PodFate::kDeleted,
       V::kDeleted,
       How::kGone,
       true,
       "its pod was deleted from outside Quad"},
      {"deleted by hand, with its result",
       {failed(terminated(0, "Completed", R"({"how":"signaled","code":15})")), true},
       false,
       true,
       Kind::kEnded,
       PodFate::kResult,
       V::kNone,
       How::kSignaled,
       true,
       ""},
      {"force-deleted by hand",
       {running(), true},
       false,
       true,
       Kind::kEnded,
       PodFate::kDeleted,
       V::kDeleted,
       How::kGone,
       false,
       "its pod was deleted from outside Quad, without its node telling that it ended"},
      {"deleted before it had a node",
       {R"("phase": "Pending")", true, ""},
       false,
       true,
       Kind::kEnded,
       PodFate::kDeleted,
       V::kDeleted,
       How::kNeverRan,
       true,
       "its pod was deleted from outside Quad"},
      {"being stopped by Quad",
       {running(), true},
       true,
       false,
       Kind::kStopping,
       PodFate::kStopped,
       V::kCancelled,
       How::kGone,
       true,
       "stopped by Quad"},
      {"stopped by Quad",
       {failed(terminated(137, "Error")), true},
       true,
       false,
       Kind::kEnded,
       PodFate::kStopped,
       V::kCancelled,
       How::kGone,
       true,
       "stopped by Quad"},
      {"short of memory",
       {R"("phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory. Threshold quantity: 100Mi, available: 20Mi. ")"},
       false,
       false,
       Kind::kEnded,
       PodFate::kEvicted,
       V::kEvicted,
       How::kGone,
       true,
       "evicted by its node: The node was low on resource: memory. Threshold quantity: 100Mi, "
       "available: 20Mi"},
      {"too much disk",
       {failed(
           R"("reason": "Evicted", "message": "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi. ", )" +
           terminated(137, "Error"))},
       false,
       false,
       Kind::kEnded,
       PodFate::kOverDisk,
       V::kUser,
       How::kGone,
       true,
       "used more disk than it may: Pod ephemeral local storage usage exceeds the total limit of "
       "containers 10Gi"},
      {"being preempted",
       {running() + ", " +
            disruption("PreemptionByScheduler",
                       "default-scheduler: preempting to accommodate a higher priority pod"),
        true},
       false,
       false,
       Kind::kStopping,
       PodFate::kPreempted,
       V::kPreempted,
       How::kGone,
       true,
       "preempted by kube-scheduler for a pod of higher priority"},
      {"preempted",
       {failed(terminated(143, "Error")) + ", " + disruption("PreemptionByScheduler"), true},
       false,
       false,
       Kind::kEnded,
       PodFate::kPreempted,
       V::kPreempted,
       How::kGone,
       true,
       "preempted by kube-scheduler for a pod of higher priority"},
      {"drained",
       {failed(terminated(143, "Error")) + ", " +
            disruption("EvictionByEvictionAPI", "Eviction API: evicting"),
        true},
       false,
       false,
       Kind::kEnded,
       PodFate::kDrained,
       V::kDrained,
       How::kGone,
       true,
       "evicted from node gpu-07: it is being drained"},
      {"drained, and its runner knew only that it had to stop",
       {failed(terminated(0, "Completed", R"({"how":"signaled","code":15,"by_quad":true})")) +
            ", " + disruption("EvictionByEvictionAPI", "Eviction API: evicting"),
        true},
       false,
       false,
       Kind::kEnded,
       PodFate::kDrained,
       V::kDrained,
       How::kSignaled,
       true,
       "evicted from node gpu-07: it is being drained"},
      {"tainted",
       {failed(terminated(143, "Error")) + ", " +
            disruption("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"),
        true},
       false,
       false,
       Kind::kEnded,
       PodFate::kTainted,
       V::kDrained,
       How::kGone,
       true,
       "taken off node gpu-07 by a NoExecute taint that the job does not tolerate"},
      {"the node is gone",
       {failed(rank(kRunning)) + ", " +
            disruption("DeletionByPodGC", "PodGC: node no longer exists"),
        true},
       false,
       true,
       Kind::kEnded,
       PodFate::kNodeGone,
       V::kHardware,
       How::kNodeLost,
       false,
       "node gpu-07 is no longer in the cluster, or out of service"},
      {"the node shut down",
       {R"("phase": "Failed", "reason": "Terminated", "message": "Pod was terminated in response to imminent node shutdown.", )" +
        terminated(143, "Error") + ", " +
        disruption("TerminationByKubelet",
                   "Pod was terminated in response to imminent node shutdown.")},
       false,
       false,
       Kind::kEnded,
       PodFate::kNodeShutdown,
       V::kDrained,
       How::kGone,
       true,
       "node gpu-07 shut down"},
      {"no device left",
       {R"("phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "Pod was rejected: Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. Requested: 8, Available: 7, which is unexpected")"},
       false,
       false,
       Kind::kEnded,
       PodFate::kRefused,
       V::kRefused,
       How::kNeverRan,
       true,
       "node gpu-07 would not have it (UnexpectedAdmissionError): Pod was rejected: Allocate "
       "failed due to requested number of devices unavailable "
       "for nvidia.com/gpu. Requested: 8, Available: 7, which is unexpected"},
      {"no room left",
       {R"("phase": "Failed", "reason": "OutOfcpu", "message": "Pod was rejected: Node didn't have enough resource: cpu")"},
       false,
       false,
       Kind::kEnded,
       PodFate::kRefused,
       V::kRefused,
       How::kNeverRan,
       true,
       "node gpu-07 would not have it (OutOfcpu): Pod was rejected: Node didn't have enough "
       "resource: cpu"},
      {"its deadline",
       {R"("phase": "Failed", "reason": "DeadlineExceeded", "message": "Pod was active on the node longer than the specified deadline", )" +
        terminated(137, "Error")},
       false,
       false,
       Kind::kEnded,
       PodFate::kDeadline,
       V::kUser,
       How::kGone,
       true,
       "ran past the activeDeadlineSeconds of its pod_config"},
      {"not installed",
       {R"("phase": "Failed", "initContainerStatuses": [{"name": "quad-install", "state": {"terminated": {"exitCode": 2, "reason": "Error", "message": "no space left"}}}],
           "containerStatuses": [{"name": "rank", "state": {"waiting": {"reason": "PodInitializing"}}}])"},
       false,
       false,
       Kind::kEnded,
       PodFate::kNotInstalled,
       V::kPlatform,
       How::kNeverRan,
       true,
       "bringing the runner into the pod exited with code 2: no space left"},
      {"not installed by the container beside the rank's",
       {without_runner(
           R"({"terminated": {"exitCode": 2, "reason": "Error", "message": "no space left"}})")},
       false,
       false,
       Kind::kEnded,
       PodFate::kNotInstalled,
       V::kPlatform,
       How::kNeverRan,
       true,
       "bringing the runner into the pod exited with code 2: no space left"},
      {"no runner, as its image cannot be had",
       {without_runner(
           R"({"waiting": {"reason": "ErrImagePull", "message": "quad:1: not found"}})")},
       false,
       false,
       Kind::kEnded,
       PodFate::kNotInstalled,
       V::kPlatform,
       How::kNeverRan,
       true,
       "the runner could not be brought: image 'quad:1' does not exist; check its name and tag"},
      {"a rank that ends before the container beside it",
       {R"("phase": "Running", "containerStatuses": [
           {"name": "quad-install", "state": {"running": {}}},
           {"name": "rank", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}])"},
       false,
       false,
       Kind::kEnded,
       PodFate::kOutOfMemory,
       V::kUser,
       How::kSignaled,
       true,
       "killed: memory 64.0 of 64 GiB"},
      {"own init container failed",
       {R"("phase": "Failed", "initContainerStatuses": [{"name": "quad-install", "state": {"terminated": {"exitCode": 0}}},
           {"name": "fetch", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}])"},
       false,
       false,
       Kind::kEnded,
       PodFate::kNotInstalled,
       V::kUser,
       How::kNeverRan,
       true,
       "init container 'fetch' exited with code 1"},
  };
  for (const Ending& one : all) {
    const PodState state = state_of(view_of(one.pod), one.ordered, one.gone);
    EXPECT_EQ(state.kind, one.kind) << one.what;
    EXPECT_EQ(to_string(state.fate), to_string(one.fate)) << one.what;
    EXPECT_EQ(job::to_string(state.verdict), job::to_string(one.verdict)) << one.what;
    EXPECT_EQ(state.words, one.words) << one.what;
    ASSERT_EQ(state.end.has_value(), one.kind == Kind::kEnded) << one.what;
    if (state.end) {
      EXPECT_EQ(job::to_string(state.end->how), job::to_string(one.how)) << one.what;
      EXPECT_EQ(state.end->confirmed, one.confirmed) << one.what;
      EXPECT_EQ(state.end->detail, one.words) << one.what;
    }
  }
}

TEST(PodState, TakesTheRunnersResultAsItIs) {
  const PodState state = state_of(
      view_of({failed(terminated(
          0, "Completed",
          R"({"how":"exited","code":42,"in_setup":true,"detail":"d","at_ms":1764068400000})"))}),
      false, false);
  EXPECT_EQ(state.end->code, 42);
  EXPECT_TRUE(state.end->in_setup);
  EXPECT_EQ(state.end->detail, "d");
  EXPECT_EQ(state.end->at.millis, 1'764'068'400'000);
}

TEST(PodState, TakesNoHalfMessageForAResult) {
  for (const std::string_view message :
       {R"({"how":"exited","co)", R"({"code":0})", R"({"how":"somehow","code":0})", "[]", "0"}) {
    const PodState state =
        state_of(view_of({failed(terminated(0, "Completed", message))}), false, false);
    EXPECT_EQ(to_string(state.fate), to_string(PodFate::kVanished)) << message;
    EXPECT_EQ(job::to_string(state.end->how), job::to_string(How::kGone)) << message;
  }
}

TEST(PodState, OfQuadsOwnStopIsNobodysFault) {
  const PodState state = state_of(view_of({failed(terminated(137, "Error")), true}), true, false);
  EXPECT_TRUE(state.end->by_quad);
  EXPECT_EQ(job::judge(*state.end, 0, "gpu-07").weight, 0);
}

TEST(PodState, NamesTheNodeWhereThereIsNoMemoryLimit) {
  PodView pod = view_of({failed(terminated(137, "OOMKilled"))});
  pod.memory_limit = 0;
  EXPECT_EQ(state_of(pod, false, false).words, "killed: the node ran out of memory");
}

TEST(PodFate, HasANameForEach) {
  EXPECT_EQ(to_string(PodFate::kNone), "none");
  EXPECT_EQ(to_string(PodFate::kNodeShutdown), "node_shutdown");
  EXPECT_EQ(to_string(PodFate::kNotStarted), "not_started");
}

// What the runner writes and what is read here are one format.
TEST(PodEnd, IsWhatTheRunnerHasWritten) {
  std::vector<runner::RankResult> results(4);
  results[0].how = "exited";
  results[0].at_ms = 1'795'000'000'123;
  results[0].log_end = 1ULL << 40U;
  results[1].how = "signaled";
  results[1].code = 11;
  results[1].detail = "killed by signal 11 (Segmentation fault)";
  results[2].how = "never_ran";
  results[2].code = 1;
  results[2].in_setup = true;
  results[2].detail = std::string(10'000, '"');  // that had to be cut
  results[3].how = "exited";
  results[3].code = 137;
  results[3].by_quad = true;
  results[3].out_of_memory = true;
  results[3].detail = "killed: memory 64.0 of 64.0 GiB";
  for (const runner::RankResult& result : results) {
    const std::string message = runner::termination_message(result);
    const PodState state = state_of(
        view_of({fmt::format(R"("phase": "Succeeded", {})", terminated(0, "Completed", message))}),
        false, false);
    ASSERT_EQ(state.kind, Kind::kEnded);
    ASSERT_TRUE(state.end.has_value());
    EXPECT_EQ(job::to_string(state.end->how), result.how);
    EXPECT_EQ(state.end->code, result.code);
    EXPECT_EQ(state.end->by_quad, result.by_quad);
    EXPECT_EQ(state.end->out_of_memory, result.out_of_memory);
    EXPECT_EQ(state.end->in_setup, result.in_setup);
    EXPECT_EQ(state.end->detail, result.detail.size() > 4096
                                     ? runner::result_from(*parse_json_object(message)).detail
                                     : result.detail);
    EXPECT_EQ(state.end->at.millis, result.at_ms);
    EXPECT_TRUE(state.end->confirmed);
  }
}

}  // namespace
}  // namespace quad::kubernetes
