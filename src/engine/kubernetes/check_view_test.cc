#include "engine/kubernetes/check_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/kubernetes/views/test_json.h"
#include "engine/kubernetes/views/test_request.h"

namespace quad::kubernetes {
namespace {

using engine::CheckLevel;
using testing::HasSubstr;

NodeView node(const std::string& name) {
  NodeView one;
  one.name = name;
  one.allocatable = {8'000, 64LL << 30U, 0};
  one.conditions = {{"Ready", "True", "", "", {}, {}}};
  return one;
}

NodeView gpu_node(const std::string& name, const std::string& model) {
  NodeView one = node(name);
  one.allocatable.gpus = 8;
  one.gpu_model = model;
  one.gpu_resource = "nvidia.com/gpu";
  return one;
}

/// The only line of a topic.
CheckLine only(const std::vector<CheckLine>& lines) {
  EXPECT_EQ(lines.size(), 1U);
  return lines.empty() ? CheckLine() : lines.front();
}

ClusterAccess access() {
  ClusterAccess one;
  one.server = "https://10.0.0.1:6443";
  return one;
}

TEST(CheckOfTheApi, TellsTheVersion) {
  const CheckLine line =
      api_line(std::string(R"({"major": "1", "minor": "34", "gitVersion": "v1.34.4"})"), access());
  EXPECT_EQ(line.level, CheckLevel::kOk);
  EXPECT_EQ(line.text, "https://10.0.0.1:6443 is Kubernetes v1.34.4");
}

TEST(CheckOfTheApi, WantsANewOneEvenWhereAProviderAddsToTheNumber) {
  const CheckLine line = api_line(
      std::string(R"({"major": "1", "minor": "29+", "gitVersion": "v1.29.4-eks"})"), access());
  EXPECT_EQ(line.level, CheckLevel::kMissing);
  EXPECT_THAT(line.fix, HasSubstr("1.30"));
}

TEST(CheckOfTheApi, TellsCredentialsFromAWayThatIsClosed) {
  const CheckLine refused = api_line(error(ErrorCode::kDenied, "Unauthorized"), access());
  EXPECT_EQ(refused.level, CheckLevel::kMissing);
  EXPECT_THAT(refused.fix, HasSubstr("credentials"));
  const CheckLine away = api_line(error(ErrorCode::kUnavailable, "connection refused"), access());
  EXPECT_EQ(away.level, CheckLevel::kMissing);
  EXPECT_THAT(away.fix, HasSubstr("https://10.0.0.1:6443 can be reached"));
}

TEST(CheckOfPermissions, NamesWhatIsLackingWithItsVerbs) {
  EXPECT_EQ(only(permission_lines({}, 22, "jobs")).level, CheckLevel::kOk);
  const Permission* pods = &needed_permissions().front();
  const CheckLine line = only(permission_lines({{pods, {"create", "delete"}}}, 22, "jobs"));
  EXPECT_EQ(line.level, CheckLevel::kMissing);
  EXPECT_EQ(line.text, "may not create or delete pods in namespace 'jobs', so no rank can run");
  EXPECT_THAT(line.fix, HasSubstr("the Role of docs/kubernetes.md"));
}

TEST(CheckOfPods, TellsTheFixByWhatRefused) {
  EXPECT_EQ(admission_line("pods", {}, "jobs").level, CheckLevel::kOk);
  const auto fix_of = [](ErrorCode code, const char* message) {
    const CheckLine line = admission_line("pods", error(code, message), "jobs");
    EXPECT_EQ(line.level, CheckLevel::kMissing) << message;
    return line.fix;
  };
  EXPECT_THAT(fix_of(ErrorCode::kNotFound, "namespaces \"jobs\" not found"),
              HasSubstr("kubectl create namespace jobs"));
  EXPECT_THAT(fix_of(ErrorCode::kDenied,
                     "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": …"),
              HasSubstr("enforce=baseline"));
  EXPECT_THAT(fix_of(ErrorCode::kDenied,
                     "pods \"x\" is forbidden: violates PodSecurity \"baseline:latest\": hostPath"),
              HasSubstr("enforce=privileged"));
  EXPECT_THAT(fix_of(ErrorCode::kDenied, "exceeded quota: pods, requested: pods=1, limited: 0"),
              HasSubstr("ResourceQuota"));
  EXPECT_THAT(fix_of(ErrorCode::kDenied, "pod rejected: RuntimeClass \"nvidia\" not found"),
              HasSubstr("runtime_class"));
  EXPECT_THAT(fix_of(ErrorCode::kDenied, "admission webhook \"a.b\" denied the request"),
              HasSubstr("Exempt"));
}

TEST(CheckOfPods, DoesNotKnowWhereAWebhookTakesNoDryRun) {
  const CheckLine line = admission_line(
      "pods", error(ErrorCode::kInvalid, "admission webhook \"a.b\" does not support dry run"),
      "jobs");
  EXPECT_EQ(line.level, CheckLevel::kUnknown);
}

TEST(CheckOfNodes, CountsThoseThatTakeJobsAndSaysWhatIsAgainstTheOthers) {
  NodeView cordoned = node("b");
  cordoned.unschedulable = true;
  NodeView tainted = node("c");
  tainted.taints = {{"team", "a", "NoSchedule", {}}};
  const auto lines = node_lines({node("a"), cordoned, tainted}, settings());
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(lines[0].level, CheckLevel::kOk);
  EXPECT_EQ(lines[0].text, "1 of 3 nodes can take jobs: 8 CPUs, 64 GiB");
  for (const CheckLine& line : {lines[1], lines[2]}) {
    EXPECT_EQ(line.level, CheckLevel::kAdvice);
  }
}

TEST(CheckOfNodes, FindsNoneWhereTheSelectorLeavesAllOut) {
  PodSettings pool = settings();
  pool.node_selector = {{"quad.io/pool", "a100"}};
  EXPECT_EQ(node_lines({node("a")}, pool).front().level, CheckLevel::kMissing);
  EXPECT_EQ(only(node_lines({}, settings())).level, CheckLevel::kMissing);
}

TEST(CheckOfGpus, CountsThemByModel) {
  const CheckLine line = only(gpu_lines({gpu_node("a", "H100"), gpu_node("b", "H100"), node("c")}));
  EXPECT_EQ(line.level, CheckLevel::kOk);
  EXPECT_EQ(line.text, "16 H100 on 2 nodes (nvidia.com/gpu)");
}

TEST(CheckOfGpus, MissesLabelsAndDevicePlugins) {
  NodeView undriven = node("b");
  undriven.labels["feature.node.kubernetes.io/pci-0302_10de.present"] = "true";
  const auto lines = gpu_lines({gpu_node("a", "NVIDIA"), undriven});
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(lines[1].level, CheckLevel::kAdvice);
  EXPECT_THAT(lines[1].fix, HasSubstr("quad.io/gpu"));
  EXPECT_EQ(lines[2].level, CheckLevel::kMissing);
  EXPECT_EQ(lines[2].text, "b has GPUs of NVIDIA that no device plugin offers");
  EXPECT_EQ(only(gpu_lines({node("a")})).level, CheckLevel::kAdvice);
}

TEST(CheckOfRdma, ComparesWhatIsConfiguredWithWhatNodesOffer) {
  NodeView fast = node("a");
  fast.devices["rdma/hca"] = 1;
  EXPECT_EQ(only(rdma_lines({node("a")}, {}, false)).level, CheckLevel::kAdvice);
  EXPECT_THAT(only(rdma_lines({fast}, {}, false)).fix, HasSubstr("{rdma/hca: 1}"));
  RdmaSettings rdma;
  rdma.resources = {{"rdma/hca", 1}, {"rdma/other", 1}};
  rdma.networks = "train/rail0";
  const auto lines = rdma_lines({fast}, rdma, false);
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(lines[0].level, CheckLevel::kOk);
  EXPECT_EQ(lines[1].level, CheckLevel::kMissing);
  EXPECT_THAT(lines[2].fix, HasSubstr("Multus"));
  EXPECT_EQ(rdma_lines({fast}, rdma, true)[2].level, CheckLevel::kOk);
}

TEST(CheckOfTheHotTier, WantsAClaimThatIsThereAndShared) {
  HotTier hot;
  hot.claim = "quad-home";
  const auto of = [&](const Result<json::object>& claim) {
    return hot_tier_line(hot, claim, "jobs");
  };
  EXPECT_EQ(of(object_of(R"({"spec": {"accessModes": ["ReadWriteMany"]},
                             "status": {"phase": "Bound"}})"))
                .level,
            CheckLevel::kOk);
  EXPECT_EQ(of(object_of(R"({"spec": {"accessModes": ["ReadWriteMany"]},
                             "status": {"phase": "Pending"}})"))
                .level,
            CheckLevel::kAdvice);
  EXPECT_THAT(of(object_of(R"({"spec": {"accessModes": ["ReadWriteOnce"]},
                               "status": {"phase": "Bound"}})"))
                  .text,
              HasSubstr("not ReadWriteMany"));
  const CheckLine none = of(error(ErrorCode::kInvalid, "spec.accessModes: Required value"));
  EXPECT_EQ(none.level, CheckLevel::kMissing);
  EXPECT_EQ(none.text, "there is no claim 'quad-home' in namespace 'jobs'");
  EXPECT_EQ(of(error(ErrorCode::kDenied, "may not")).level, CheckLevel::kUnknown);
}

TEST(CheckOfTheHotTier, SaysWhatIsLostWithoutOne) {
  const CheckLine line = hot_tier_line({}, json::object(), "jobs");
  EXPECT_EQ(line.level, CheckLevel::kAdvice);
  EXPECT_THAT(line.text, HasSubstr("step 0"));
}

TEST(CheckOfStorage, ComparesWithWhatTheConfigurationNames) {
  const std::vector<json::object> classes = {
      object_of(R"({"metadata": {"name": "local-path"}})"),
      object_of(R"({"metadata": {"name": "longhorn", "annotations":
                    {"storageclass.kubernetes.io/is-default-class": "true"}}})")};
  EXPECT_EQ(only(storage_lines(classes, {}, "")).text,
            "StorageClasses local-path and longhorn; volumes that name none get 'longhorn'");
  const CheckLine missing = only(storage_lines(classes, {"ceph"}, ""));
  EXPECT_EQ(missing.level, CheckLevel::kMissing);
  EXPECT_THAT(missing.text, HasSubstr("'ceph'"));
  const std::vector<json::object> no_default = {classes[0]};
  EXPECT_EQ(only(storage_lines(no_default, {}, "")).level, CheckLevel::kAdvice);
  EXPECT_EQ(only(storage_lines(no_default, {}, "local-path")).level, CheckLevel::kOk);
  EXPECT_EQ(only(storage_lines(std::vector<json::object>(), {}, "")).level, CheckLevel::kAdvice);
  EXPECT_EQ(only(storage_lines(error(ErrorCode::kDenied, "may not"), {"x"}, "")).level,
            CheckLevel::kUnknown);
}

TEST(CheckOfImages, KnowsAnImageHoweverItIsWritten) {
  EXPECT_EQ(full_image_name("python:3.12"), "docker.io/library/python:3.12");
  EXPECT_EQ(full_image_name("ana/tool"), "docker.io/ana/tool:latest");
  EXPECT_EQ(full_image_name("registry:5000/a/b"), "registry:5000/a/b:latest");
  EXPECT_EQ(full_image_name("localhost/quad:1"), "localhost/quad:1");
  EXPECT_EQ(full_image_name("a.b/c@sha256:0"), "a.b/c@sha256:0");
}

TEST(CheckOfImages, TellsWhereTheyAreAndWhatFailed) {
  const std::map<std::string, std::set<std::string>> on = {{"a", {"docker.io/library/python:3.12"}},
                                                           {"b", {}}};
  EXPECT_EQ(image_line("default image", "python:3.12", on, {}).text,
            "default image 'python:3.12' is on 1 of 2 nodes");
  EXPECT_EQ(image_line("default image", "python:4", on, {}).level, CheckLevel::kUnknown);
  EXPECT_EQ(image_line("default image", "", on, {}).level, CheckLevel::kAdvice);
  EventView event;
  event.message = "Failed to pull image \"python:4\": python:4: not found";
  EXPECT_EQ(image_line("default image", "python:4", on, {event}).level, CheckLevel::kMissing);
  EXPECT_EQ(image_line("default image", "python:3.12", on, {event}).level, CheckLevel::kOk);
}

TEST(CheckOfMetrics, KnowsProgramsByTheirLabels) {
  Programs programs;
  for (const char* labels :
       {R"({"app": "nvidia-dcgm-exporter"})", R"({"app.kubernetes.io/name": "prometheus"})",
        R"({"k8s-app": "kube-dns"})", R"({"app": "nvidia-device-plugin-daemonset"})"}) {
    note_program({{"metadata", json::object{{"labels", object_of(labels)}}}}, programs);
  }
  EXPECT_TRUE(programs.dcgm_exporter && programs.prometheus && programs.dns &&
              programs.gpu_operator);
  EXPECT_FALSE(programs.metrics_server);
  for (const CheckLine& line : metrics_lines(programs, true)) {
    EXPECT_EQ(line.level == CheckLevel::kOk, line.text.find("metrics.k8s.io") == std::string::npos)
        << line.text;
  }
  EXPECT_EQ(dns_line(programs, {}).level, CheckLevel::kOk);
  EXPECT_EQ(dns_line({}, {}).level, CheckLevel::kUnknown);
  EXPECT_EQ(dns_line(programs, false).level, CheckLevel::kMissing);
}

TEST(CheckOfOrders, TellsWhoElseGivesThem) {
  LeaseView lease;
  const WallTime now = *parse_rfc3339("2026-11-25T10:02:31Z");
  EXPECT_EQ(orders_line(lease, "here_1", now, "jobs").level, CheckLevel::kAdvice);
  lease.renewed = now + Millis(-3'000);
  lease.duration_seconds = 15;
  lease.holder = "here_1";
  EXPECT_EQ(orders_line(lease, "here_1", now, "jobs").level, CheckLevel::kOk);
  lease.holder = "ada_lab_2";
  const CheckLine line = orders_line(lease, "here_1", now, "jobs");
  EXPECT_EQ(line.level, CheckLevel::kMissing);
  EXPECT_NE(line.text.find("on ada_lab, runs jobs in namespace 'jobs'"), std::string::npos)
      << line.text;
  EXPECT_EQ(orders_line(lease, "here_1", now + Millis(120'000), "jobs").level, CheckLevel::kAdvice);
}

TEST(CheckOfTheNamespace, TellsOfJobsBesideTheServerAndOfPodsInAnother) {
  EXPECT_TRUE(namespace_lines("quad-jobs", "quad", {}).empty());
  EXPECT_TRUE(namespace_lines("research", "", {}).empty());
  const auto beside = namespace_lines("quad", "quad", {});
  ASSERT_EQ(beside.size(), 1U);
  EXPECT_EQ(beside[0].text, "jobs run in 'quad', beside the server");
  const auto left = namespace_lines("quad-jobs", "quad", {{"quad", 2}});
  ASSERT_EQ(left.size(), 1U);
  EXPECT_NE(left[0].text.find("2 pods in namespace 'quad' have the labels"), std::string::npos);
}

TEST(CheckOfTheServersAddress, RefusesOneThatIsThePodItself) {
  EXPECT_EQ(server_line("https://127.0.0.1:8443").level, CheckLevel::kMissing);
  EXPECT_EQ(server_line("http://localhost:80").level, CheckLevel::kMissing);
  EXPECT_EQ(server_line("https://quad.quad.svc:8443").level, CheckLevel::kOk);
}

}  // namespace
}  // namespace quad::kubernetes
