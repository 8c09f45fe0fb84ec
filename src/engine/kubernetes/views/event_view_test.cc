#include "engine/kubernetes/views/event_view.h"

#include <gtest/gtest.h>

#include "engine/kubernetes/views/test_json.h"

namespace quad::kubernetes {
namespace {

TEST(EventView, IsReadFromEitherApi) {
  const auto core = read_event(object_of(R"({
    "apiVersion": "v1", "kind": "Event",
    "metadata": {"name": "quad-1a2b3c4d-j17-e1-r0.187b1c", "namespace": "jobs"},
    "involvedObject": {"kind": "Pod", "namespace": "jobs", "name": "quad-1a2b3c4d-j17-e1-r0", "uid": "u1",
                       "apiVersion": "v1", "resourceVersion": "48300", "fieldPath": "spec.containers{rank}"},
    "reason": "Failed", "message": "Error: ImagePullBackOff", "source": {"component": "kubelet", "host": "gpu-07"},
    "firstTimestamp": "2026-11-25T10:00:00Z", "lastTimestamp": "2026-11-25T10:02:00Z", "count": 5,
    "type": "Warning", "eventTime": null, "reportingComponent": "kubelet", "reportingInstance": "gpu-07"})"));
  ASSERT_TRUE(core.ok());
  EXPECT_EQ(core->kind, "Pod");
  EXPECT_EQ(core->name, "quad-1a2b3c4d-j17-e1-r0");
  EXPECT_EQ(core->uid, "u1");
  EXPECT_EQ(core->count, 5);
  EXPECT_TRUE(core->warning);
  EXPECT_EQ(core->last, *parse_rfc3339("2026-11-25T10:02:00Z"));

  const auto scheduler = read_event(object_of(R"({
    "involvedObject": {"kind": "Pod", "name": "p"}, "reason": "FailedScheduling", "message": "m",
    "firstTimestamp": null, "lastTimestamp": null, "type": "Warning", "eventTime": "2026-11-25T10:00:00.123456Z",
    "series": {"count": 3, "lastObservedTime": "2026-11-25T10:01:00.000000Z"}, "reportingComponent": "default-scheduler"})"));
  ASSERT_TRUE(scheduler.ok());
  EXPECT_EQ(scheduler->count, 3);
  EXPECT_EQ(scheduler->last, *parse_rfc3339("2026-11-25T10:01:00Z"));

  const auto newer =
      read_event(object_of(R"({"regarding": {"kind": "Node", "name": "n"}, "note": "text"})"));
  ASSERT_TRUE(newer.ok());
  EXPECT_EQ(newer->message, "text");
  EXPECT_FALSE(read_event(json::object()).ok());
}

struct Said {
  std::string_view reason;
  std::string_view message;
  std::string_view words;
};

TEST(EventView, MakesKubernetesWordsPlain) {
  const Said all[] = {
      {"FailedScheduling",
       "0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 node(s) didn't match Pod's node "
       "affinity/selector. "
       "preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 "
       "Preemption is not helpful for scheduling.",
       "kube-scheduler cannot place it: node n1 has not enough GPUs free"},
      {"FailedMount",
       R"(MountVolume.SetUp failed for volume "data" : hostPath type check failed: /scratch is not a directory)",
       "a volume cannot be mounted: the folder is not there on this node"},
      {"FailedMount",
       R"(MountVolume.SetUp failed for volume "quad-start" : secret "quad-1a2b3c4d-j17-e1" not found)",
       "a volume cannot be mounted: there is no Secret 'quad-1a2b3c4d-j17-e1'"},
      {"FailedMount",
       "MountVolume.SetUp failed for volume \"quad-hot\" : mount failed: exit status 32\nOutput: "
       "mount.nfs: Connection timed out",
       "a volume cannot be mounted: MountVolume.SetUp failed for volume \"quad-hot\" : mount "
       "failed: exit status 32 Output: mount.nfs: "
       "Connection timed out"},
      {"FailedAttachVolume",
       R"(Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) other)",
       "a volume cannot be attached: a volume that only one node can have at a time is still "
       "attached to another"},
      {"FailedCreatePodSandBox",
       R"(Failed to create pod sandbox: rpc error: code = Unknown desc = failed to get sandbox runtime: no runtime for "nvidia" is configured)",
       "the node cannot set the pod up: the node has no container runtime 'nvidia'"},
      {"FailedCreatePodSandBox",
       R"(Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for sandbox "x": plugin type="multus" failed)",
       R"(the node cannot set the pod up: Failed to create pod sandbox: failed to setup network for sandbox "x": plugin type="multus" failed)"},
      {"Failed",
       R"(Failed to pull image "busybox:nope": rpc error: code = NotFound desc = failed to pull and unpack image "docker.io/library/busybox:nope": failed to resolve reference "docker.io/library/busybox:nope": docker.io/library/busybox:nope: not found)",
       "image 'busybox:nope' does not exist; check its name and tag"},
      {"Failed", "Error: ErrImagePull", ""},
      {"Failed", R"(Error: secret "hf" not found)",
       "a container cannot be started: there is no Secret 'hf'"},
      {"BackOff", R"(Back-off pulling image "busybox:nope")",
       "image 'busybox:nope' cannot be pulled; Kubernetes tries again"},
      {"BackOff", "Back-off restarting failed container x in pod y",
       "a container of the pod fails again and again"},
      {"Pulling", R"(Pulling image "nvcr.io/nvidia/pytorch:25.10-py3")",
       "pulls the image nvcr.io/nvidia/pytorch:25.10-py3"},
      {"Evicted", "The node was low on resource: memory.",
       "evicted by its node: The node was low on resource: memory"},
      {"Preempted", "Preempted by pod 1234 on node n1",
       "preempted by kube-scheduler: Preempted by pod 1234 on node n1"},
      {"ProvisioningFailed", R"(storageclass.storage.k8s.io "fast" not found)",
       "a volume cannot be provided: there is no StorageClass 'fast'"},
      {"OutOfnvidia.com/gpu",
       "Node didn't have enough resource: nvidia.com/gpu, requested: 8, used: 4, capacity: 8",
       "refused by its node: not enough GPUs left there"},
      {"NetworkNotReady",
       "network is not ready: container runtime network not ready: NetworkReady=false",
       "the node's pod network is not ready: network is not ready: container runtime network not "
       "ready: NetworkReady=false"},
      {"SomethingNew", "It happened.", "SomethingNew: It happened"},
  };
  for (const Said& one : all) {
    EventView event;
    event.reason = one.reason;
    event.message = one.message;
    event.warning = true;
    EXPECT_EQ(event_in_words(event, "n1"), one.words) << one.reason << ": " << one.message;
  }
}

TEST(EventView, IsSilentAboutWhatGoesWell) {
  for (const std::string_view reason :
       {"Scheduled", "Pulled", "Created", "Started", "Killing", "SuccessfulAttachVolume"}) {
    EventView event;
    event.reason = reason;
    event.message = "as it should be";
    EXPECT_EQ(event_in_words(event), "") << reason;
  }
}

struct Placing {
  std::string_view message;
  std::string_view words;
};

TEST(SchedulingInWords, IsAboutTheNodeThatThePodIsPinnedTo) {
  const Placing all[] = {
      {"0/100 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 99 node(s) didn't "
       "match Pod's node affinity/selector. "
       "preemption: 0/100 nodes are available: 100 Preemption is not helpful for scheduling.",
       "node n7 has not enough CPUs free and node n7 has not enough memory free"},
      {"0/3 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: "
       "}, 2 node(s) didn't match Pod's node affinity/selector.",
       "node n7 is not ready"},
      {"0/3 nodes are available: 1 node(s) had untolerated taint {team: a, b}, 2 node(s) didn't "
       "match Pod's node affinity/selector.",
       "node n7 has the taint team, which the job does not tolerate"},
      {"0/3 nodes are available: 1 Insufficient memory, 2 node(s) didn't satisfy plugin(s) "
       "[NodeAffinity]. no new claims to deallocate, preemption: 0/3 nodes are available: 1 No "
       "preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.",
       "node n7 has not enough memory free"},
      {"0/1 nodes are available: 1 Insufficient memory. no new claims to deallocate, preemption: "
       "0/1 "
       "nodes are available: 1 Preemption is not helpful for scheduling.",
       "node n7 has not enough memory free"},
      {"0/3 nodes are available: 3 node(s) didn't satisfy plugin(s) [NodeAffinity].",
       "node n7 is not there, or lacks what the job's node selector asks for"},
      {"0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 node(s) didn't match Pod's "
       "node affinity/selector. no new claims to deallocate, preemption: 0/3 nodes are available: "
       "3 "
       "Preemption is not helpful for scheduling.",
       "node n7 is not ready, or has a taint that the job does not tolerate"},
      {"0/3 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 2 "
       "node(s) "
       "didn't match Pod's node affinity/selector.",
       "a volume of the job is not to be had on node n7"},
      {"0/3 nodes are available: 1 node(s) unavailable due to PersistentVolumeClaim with "
       "ReadWriteOncePod access mode already in-use by another pod, 2 node(s) didn't match Pod's "
       "node "
       "affinity/selector.",
       "a volume of the job is in use by another pod, and may be by one only"},
      {"0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) didn't match Pod's node "
       "affinity/selector.",
       "node n7 is cordoned"},
      {"0/3 nodes are available: 1 node(s) had volume node affinity conflict, 2 node(s) didn't "
       "match Pod's node affinity/selector.",
       "a volume of the job is not to be had on node n7"},
      {"0/3 nodes are available: 1 Too many pods, 2 node(s) didn't match Pod's node "
       "affinity/selector.",
       "node n7 has as many pods as it takes"},
      {"0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
       "node n7 is not there, or lacks what the job's node selector asks for"},
      {R"(0/3 nodes are available: persistentvolumeclaim "data" not found. not found)",
       "there is no PersistentVolumeClaim 'data'"},
      {"0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
       "a volume of the job is not provided yet"},
      {"no nodes available to schedule pods", "no nodes available to schedule pods"},
  };
  for (const Placing& one : all) {
    EXPECT_EQ(scheduling_in_words(one.message, "n7"), one.words) << one.message;
  }
}

struct Pull {
  std::string_view message;
  std::string_view part;
  bool hopeless;
};

TEST(PullFailure, TellsWhatHelps) {
  const Pull all[] = {
      {R"(failed to pull and unpack image "docker.io/library/nope:latest": failed to resolve reference "docker.io/library/nope:latest": pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed)",
       "does not exist, or its registry wants a login", true},
      {R"(failed to authorize: failed to fetch oauth token: unexpected status from GET request to https://nvcr.io/proxy_auth: 401 Unauthorized)",
       "refuses the login", true},
      {R"(failed to resolve reference "ghcr.io/x/y:1": ghcr.io/x/y:1: not found)",
       "does not exist; check its name and tag", true},
      {R"(no match for platform in manifest sha256:abc: not found)",
       "not made for this kind of processor", true},
      {R"(failed to do request: Head "https://registry.example/v2/x": dial tcp: lookup registry.example on 10.43.0.10:53: no such host)",
       "cannot be reached from the node (its name is not known)", false},
      {R"(failed to do request: Head "https://10.0.0.5:5000/v2/x": dial tcp 10.0.0.5:5000: connect: connection refused)",
       "cannot be reached from the node (no connection)", false},
      {R"(tls: failed to verify certificate: x509: certificate signed by unknown authority)",
       "its certificate is not trusted", false},
      {"toomanyrequests: You have reached your unauthenticated pull rate limit", "limits how often",
       false},
      {"write /var/lib/containerd/x: no space left on device", "the node's disk is full", false},
      {"Back-off pulling image \"i\"", "tries again", false},
      {"something else", "something else", false},
  };
  for (const Pull& one : all) {
    const PullFailure failure = pull_failure("i", one.message);
    EXPECT_NE(failure.words.find(one.part), std::string::npos) << failure.words;
    EXPECT_TRUE(failure.words.starts_with("image 'i'")) << failure.words;
    EXPECT_EQ(failure.hopeless, one.hopeless) << one.message;
  }
}

struct Answer {
  std::string_view reason;
  std::string_view message;
  std::string_view words;
  bool hopeless = false;
};

TEST(Refusal, SaysWhatTheApiServerObjectsToAndWhetherToTryAgain) {
  const Answer all[] = {
      {"Forbidden",
       R"(pods "quad-1a2b3c4d-j17-e1-r0" is forbidden: exceeded quota: compute, requested: requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=12, limited: requests.nvidia.com/gpu=16)",
       "the namespace's quota 'compute' is used up: it allows requests.nvidia.com/gpu=16, of which "
       "requests.nvidia.com/gpu=12 is used, and this asks for "
       "requests.nvidia.com/gpu=8"},
      {"Forbidden",
       R"(pods "x" is forbidden: failed quota: compute: must specify limits.cpu for: rank)",
       "the namespace's quota wants more to be said: failed quota: compute: must specify "
       "limits.cpu for: rank",
       true},
      {"Forbidden",
       R"(admission webhook "policy.example.edu" denied the request: images must come from registry.example.edu)",
       "the cluster's admission webhook policy.example.edu refused it: images must come from "
       "registry.example.edu"},
      {"InternalError",
       R"(Internal error occurred: failed calling webhook "policy.example.edu": failed to call webhook: Post "https://p.svc:443/": connection refused)",
       "the cluster's admission webhook policy.example.edu does not answer"},
      {"Forbidden",
       R"(pods "x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "rank" must set it))",
       R"(the namespace's Pod Security 'restricted:latest' forbids it: allowPrivilegeEscalation != false (container "rank" must set it))",
       true},
      {"Forbidden", R"(pods "x" is forbidden: no PriorityClass with name gold was found)",
       "there is no PriorityClass 'gold'"},
      {"Forbidden", R"(pods "x" is forbidden: pod rejected: RuntimeClass "nvidia" not found)",
       "there is no RuntimeClass 'nvidia'"},
      {"Forbidden",
       R"(pods "x" is forbidden: unable to create new content in namespace jobs because it is being terminated)",
       "the namespace is being deleted"},
      {"Forbidden",
       R"(pods is forbidden: User "system:serviceaccount:quad:quad" cannot create resource "pods" in API group "" in the namespace "jobs")",
       R"(Quad's account lacks a permission: pods is forbidden: User "system:serviceaccount:quad:quad" cannot create resource "pods" in API group "" in the namespace "jobs")"},
      {"Forbidden",
       R"(services "x" is forbidden: User "ana" cannot patch resource "services" in API group "" in the namespace "jobs")",
       R"(Quad's account lacks a permission: services "x" is forbidden: User "ana" cannot patch resource "services" in API group "" in the namespace "jobs")"},
      {"Invalid",
       R"(Pod "x" is invalid: spec.containers[0].resources.requests: Invalid value: "4": must be less than or equal to cpu limit of 2)",
       R"(the API server does not accept it: spec.containers[0].resources.requests: Invalid value: "4": must be less than or equal to cpu limit of 2)",
       true},
      {"Invalid",
       R"(pods "x" is forbidden: ValidatingAdmissionPolicy 'hours' with binding 'hours' denied request: no pods on Fridays)",
       "the cluster's admission policy hours refused it: no pods on Fridays"},
      {"Forbidden", R"(pods "x" is forbidden: maximum cpu usage per Pod is 2, but limit is 4)",
       R"(the API server refused it: pods "x" is forbidden: maximum cpu usage per Pod is 2, but limit is 4)",
       true},
      {"Conflict", "the object has been modified",
       "the API server refused it: the object has been modified"},
      {"Timeout", "", "the API server refused it (Timeout)"},
  };
  for (const Answer& one : all) {
    const json::object status{{"kind", "Status"},
                              {"status", "Failure"},
                              {"reason", one.reason},
                              {"message", one.message}};
    const Refusal refusal = read_refusal(status);
    EXPECT_EQ(refusal.words, one.words);
    EXPECT_EQ(refusal.hopeless, one.hopeless) << one.message;
  }
}

TEST(Shortened, CutsLongMessagesBetweenCharacters) {
  std::string text;
  for (int i = 0; i < 200; ++i) {
    text += "é";
  }
  const std::string cut = shortened(text);
  EXPECT_LE(cut.size(), 300U);
  EXPECT_TRUE(cut.ends_with("é…")) << cut;
  EXPECT_EQ(shortened(" a\nb. "), "a b");
}

}  // namespace
}  // namespace quad::kubernetes
