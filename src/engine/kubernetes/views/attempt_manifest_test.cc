#include "engine/kubernetes/views/attempt_manifest.h"

#include <gtest/gtest.h>

#include "engine/kubernetes/views/pod_manifest.h"
#include "engine/kubernetes/views/test_json.h"
#include "engine/kubernetes/views/test_request.h"

namespace quad::kubernetes {
namespace {

TEST(AttemptSecret, HoldsAStartFileForEachRank) {
  PodSettings some = settings();
  some.ca = "PEM";
  const json::object start = start_file(request(), some, "t");
  EXPECT_EQ(get_string(start, "server"), "https://quad.quad.svc:8470");
  EXPECT_EQ(get_string(start, "ca"), "/quad/rank/ca.pem");
  EXPECT_EQ(get_string(start, "token"), "t");
  EXPECT_EQ(get_int(start, "rank"), 1);
  EXPECT_EQ(get_string(start, "hot"), "/quad/hot");
  EXPECT_EQ(get_string(start, "termination_message"), "/dev/termination-log");
  EXPECT_EQ(get_int(start, "memory_bytes"), 0);  // the runner is to set no limit of its own
  const auto secret = secret_manifest(request(), some, {start, start});
  ASSERT_TRUE(secret.ok());
  const json::value value(*secret);
  EXPECT_EQ(at(value, "/metadata/name"), "quad-1a2b3c4d-j17-e2");
  EXPECT_EQ(
      at(value, "/metadata/ownerReferences/0"),
      json::value(object_of(
          R"({"apiVersion": "v1", "kind": "ConfigMap", "name": "quad-1a2b3c4d", "uid": "root-uid"})")));
  EXPECT_EQ(at(value, "/immutable"), json::value(true));
  EXPECT_TRUE(at(value, "/data/start-0.json").is_string());
  EXPECT_TRUE(at(value, "/data/start-1.json").is_string());
  EXPECT_EQ(at(value, "/data/ca.pem"), "UEVN");
  EXPECT_TRUE(at(value, "/metadata/labels/quad.io~1rank").is_null());
}

TEST(AttemptSecret, IsBoundedByWhatKubernetesTakes) {
  PodRequest one = request();
  one.secret_files = {{"/a", std::string(1'200'000, 'x')}};
  const auto secret = secret_manifest(one, settings(), {});
  ASSERT_FALSE(secret.ok());
  EXPECT_EQ(secret.error().code, ErrorCode::kExhausted);
}

TEST(AttemptManifests, AreWhatTheAttemptNeeds) {
  PodRequest one = request();
  one.ranks = 1;
  EXPECT_TRUE(attempt_manifests(one, settings(), "secret-uid").empty());
  one.ranks = 2;
  one.ports = {8888, 6006};
  one.login = RegistryLogin{"", "ana", "pw"};
  VolumeRequest shared;
  shared.destination = "/scratch";
  shared.kind = VolumeRequest::Kind::kEphemeral;
  shared.size_bytes = 1LL << 30U;
  shared.access_modes = {"ReadWriteMany"};
  one.volumes = {shared};
  const auto manifests = attempt_manifests(one, settings(), "secret-uid");
  ASSERT_EQ(manifests.size(), 4U);
  for (const json::object& manifest : manifests) {
    EXPECT_EQ(at(json::value(manifest), "/metadata/ownerReferences/0/uid"), "secret-uid");
  }
  EXPECT_EQ(get_string(manifests[0], "type"), "kubernetes.io/dockerconfigjson");
  // {"auths":{"https://index.docker.io/v1/":{"username":"ana","password":"pw","auth":"YW5hOnB3"}}}
  EXPECT_EQ(at(json::value(manifests[0]), "/data/.dockerconfigjson"),
            "eyJhdXRocyI6eyJodHRwczovL2luZGV4LmRvY2tlci5pby92MS8iOnsidXNlcm5hbWUiOiJhbmEiLCJwYXNzd2"
            "9yZCI6InB3IiwiYXV0aCI6IllXNWhPbkIzIn19fQ==");
  EXPECT_EQ(at(json::value(manifests[1]), "/spec"),
            json::value(object_of(R"({"clusterIP": "None", "publishNotReadyAddresses": true,
              "selector": {"quad.io/server": "1a2b3c4d", "quad.io/job": "17", "quad.io/epoch": "2"}})")));
  EXPECT_EQ(at(json::value(manifests[1]), "/metadata/name"),
            at(json::value(*pod_manifest(one, settings(), "u")), "/spec/subdomain"));
  EXPECT_EQ(get_string(manifests[2], "kind"), "PersistentVolumeClaim");
  EXPECT_EQ(at(json::value(manifests[3]), "/metadata/name"), "quad-1a2b3c4d-j17");
  EXPECT_EQ(at(json::value(manifests[3]), "/spec"), json::value(object_of(R"({"type": "ClusterIP",
              "selector": {"quad.io/server": "1a2b3c4d", "quad.io/job": "17", "quad.io/epoch": "2", "quad.io/rank": "0"},
              "ports": [{"name": "port-8888", "port": 8888, "targetPort": 8888, "protocol": "TCP"},
                        {"name": "port-6006", "port": 6006, "targetPort": 6006, "protocol": "TCP"}]})")));
}

TEST(ServerManifests, AreTheRootAndTheBudget) {
  EXPECT_EQ(at(json::value(root_manifest(settings())), "/metadata/name"), "quad-1a2b3c4d");
  const json::value budget(disruption_budget_manifest(settings(), {}));
  EXPECT_EQ(at(budget, "/spec/selector/matchLabels"),
            json::value(object_of(R"({"quad.io/server": "1a2b3c4d"})")));
  EXPECT_EQ(at(budget, "/spec/minAvailable"), json::value(1'000'000'000));
  EXPECT_EQ(at(budget, "/metadata/ownerReferences/0/uid"), "root-uid");
}

TEST(ServerManifests, HaveALeaseForOneVersionThatIsHeldOrFree) {
  LeaseView lease;
  lease.holder = "host_1";
  lease.version = "17";
  lease.duration_seconds = 15;
  const WallTime now = *parse_rfc3339("2026-11-25T10:02:31.482Z");
  const json::object held = server_lease_manifest(settings(), lease, now);
  EXPECT_EQ(at(json::value(held), "/metadata/resourceVersion"), "17");
  EXPECT_EQ(at(json::value(held), "/spec/renewTime"), "2026-11-25T10:02:31.482000Z");
  EXPECT_EQ(read_lease(held)->holder, "host_1");
  EXPECT_EQ(read_lease(held)->renewed, now);
  lease.holder.clear();
  lease.version.clear();
  const json::object free = server_lease_manifest(settings(), lease, now);
  EXPECT_TRUE(at(json::value(free), "/spec/holderIdentity").is_null());
  EXPECT_FALSE(free.at("metadata").as_object().contains("resourceVersion"));
}

TEST(Budget, LetsRanksBeEvictedFromCordonedNodes) {
  const json::value budget(disruption_budget_manifest(settings(), {"gpu-1", "gpu-2"}));
  EXPECT_EQ(at(budget, "/spec/selector"), json::value(object_of(
                                              R"({"matchLabels": {"quad.io/server": "1a2b3c4d"},
              "matchExpressions": [{"key": "quad.io/node", "operator": "NotIn", "values": ["gpu-1", "gpu-2"]}]})")));
}

}  // namespace
}  // namespace quad::kubernetes
