#include "engine/kubernetes/views/pod_volumes.h"

#include <gtest/gtest.h>

#include "engine/kubernetes/views/test_json.h"

namespace quad::kubernetes {
namespace {

using Kind = VolumeRequest::Kind;

VolumeRequest claim(std::string destination, std::vector<std::string> modes) {
  VolumeRequest volume;
  volume.destination = std::move(destination);
  volume.source = "data";
  volume.access_modes = std::move(modes);
  return volume;
}

VolumeRequest ephemeral(std::vector<std::string> modes) {
  VolumeRequest volume = claim("/scratch", std::move(modes));
  volume.kind = Kind::kEphemeral;
  volume.source = "";
  volume.size_bytes = 100LL << 30U;
  volume.storage_class = "longhorn";
  volume.labels = {{"team", "vision"}};
  return volume;
}

PodRequest request(std::vector<VolumeRequest> volumes, std::int32_t ranks = 1) {
  PodRequest one;
  one.key = {JobId(17), Epoch(2), Rank(0)};
  one.ranks = ranks;
  one.volumes = std::move(volumes);
  return one;
}

PodSettings settings() {
  PodSettings some;
  some.server = "1a2b3c4d";
  some.namespace_name = "jobs";
  return some;
}

TEST(PodVolumes, MountAClaimWhereTheTaskWantsIt) {
  VolumeRequest volume = claim("/data", {"ReadWriteOnce"});
  volume.sub_path = "ana/set1";
  const auto made = pod_volumes(request({volume}), settings());
  ASSERT_TRUE(made.ok());
  EXPECT_EQ(
      made->volumes,
      object_of(
          R"({"v": [{"persistentVolumeClaim": {"claimName": "data"}, "name": "quad-volume-0"}]})")
          .at("v"));
  EXPECT_EQ(
      made->mounts,
      object_of(
          R"({"v": [{"name": "quad-volume-0", "mountPath": "/data", "subPath": "ana/set1"}]})")
          .at("v"));
}

TEST(PodVolumes, HaveTheHotTierFirst) {
  PodSettings some = settings();
  some.hot = HotTier{};
  some.hot->kind = HotTier::Kind::kNfs;
  some.hot->nfs_server = "10.0.0.2";
  some.hot->path = "/export/home";
  const auto made = pod_volumes(request({}), some);
  ASSERT_TRUE(made.ok());
  EXPECT_EQ(
      made->volumes,
      object_of(
          R"({"v": [{"nfs": {"server": "10.0.0.2", "path": "/export/home"}, "name": "quad-hot"}]})")
          .at("v"));
  some.hot->kind = HotTier::Kind::kClaim;
  some.hot->claim = "home";
  EXPECT_EQ(at(pod_volumes(request({}), some)->volumes, "/0/persistentVolumeClaim/claimName"),
            "home");
  some.hot->kind = HotTier::Kind::kHostPath;
  EXPECT_EQ(at(pod_volumes(request({}), some)->volumes, "/0/hostPath/path"), "/export/home");
}

json::array hot_mounts(const PodRequest& one) {
  PodSettings some = settings();
  some.hot = HotTier{};
  some.hot->claim = "home";
  some.hot->folder = "/home/.quad/1a2b3c4d";
  return pod_volumes(one, some)->mounts;
}

TEST(PodVolumes, ShowOfTheHotTierTheJobsFolderAndItsOwnersHomeAlone) {
  PodRequest one = request({});
  one.owner = "ana";
  EXPECT_EQ(hot_mounts(one), json::value(object_of(R"({"v": [
    {"name": "quad-hot", "mountPath": "/home/.quad/1a2b3c4d/17", "subPath": ".quad/1a2b3c4d/17"},
    {"name": "quad-hot", "mountPath": "/home/ana", "subPath": "ana"}]})"))
                                 .at("v"));
  // What runs on a cluster has its folders in the holder's, and finds them where it always did.
  one.holds = true;
  EXPECT_EQ(
      at(hot_mounts(one), "/0"),
      json::value(object_of(
          R"({"name": "quad-hot", "mountPath": "/home/.quad/1a2b3c4d", "subPath": ".quad/1a2b3c4d/17"})")));
  one.owner = "..";
  EXPECT_EQ(at(hot_mounts(one), "/1/subPath"), "%2e.");
}

TEST(PodVolumes, AreNotTheHotTierNorTheServersOwn) {
  PodSettings some = settings();
  some.hot = HotTier{};
  some.hot->claim = "home";
  some.reserved_names = {"records"};
  for (const char* name : {"home", "records", "quad-1a2b3c4d-j1-e1-volume-0"}) {
    VolumeRequest one = claim("/steal", {});
    one.source = name;
    const auto made = pod_volumes(request({one}), some);
    ASSERT_FALSE(made.ok()) << name;
    EXPECT_EQ(made.error().code, ErrorCode::kDenied);
    EXPECT_NE(made.error().message.find("is Quad's own"), std::string::npos);
  }
  some.hot->kind = HotTier::Kind::kHostPath;
  some.hot->path = "/data/quad";
  some.permissions.host_paths = {"/data"};
  VolumeRequest host = claim("/steal", {});
  host.kind = Kind::kHostPath;
  for (const char* path : {"/data", "/data/quad", "/data//quad/x"}) {
    host.source = path;
    EXPECT_FALSE(pod_volumes(request({host}), some).ok()) << path;
  }
  host.source = "/data/sets";
  EXPECT_TRUE(pod_volumes(request({host}), some).ok());
}

TEST(PodVolumes, TakeNoLabelsByWhichOthersKnowTheirs) {
  VolumeRequest one = ephemeral({});
  one.labels = {{"app.kubernetes.io/instance", "quad"}};
  EXPECT_FALSE(pod_volumes(request({one}), settings()).ok());
}

struct Sharing {
  std::vector<std::string> modes;
  std::int32_t ranks;
  std::string_view refusal;  ///< empty: it may
  bool read_only = false;
};

TEST(PodVolumes, AreSharedByAGangOnlyWhereTheirAccessModeAllows) {
  const Sharing all[] = {
      {{"ReadWriteOnce"}, 1, ""},
      {{"ReadWriteOncePod"}, 1, ""},
      {{"ReadWriteMany"}, 4, ""},
      {{}, 4, ""},  // not known: the cluster decides
      {{"ReadOnlyMany"}, 4, "", true},
      {{"ReadWriteOnce", "ReadOnlyMany"}, 4, "", true},
      {{"ReadWriteOnce", "ReadOnlyMany"}, 1, ""},
      {{"ReadWriteOnce"},
       2,
       "volumes./data: the volume 'data' is ReadWriteOnce, so it can be used on one node only; a "
       "job of 2 nodes needs one that is ReadWriteMany "
       "(or ReadOnlyMany, to read)."},
      {{"ReadWriteOncePod"},
       2,
       "volumes./data: the volume 'data' is ReadWriteOncePod, so it can be used by one pod only; a "
       "job of 2 nodes needs one that is ReadWriteMany "
       "(or ReadOnlyMany, to read)."},
  };
  for (const Sharing& one : all) {
    const auto made = pod_volumes(request({claim("/data", one.modes)}, one.ranks), settings());
    EXPECT_EQ(made.ok() ? "" : made.error().message, one.refusal);
    if (made.ok()) {
      EXPECT_EQ(at(made->mounts, "/0/readOnly") == json::value(true), one.read_only);
    }
  }
}

TEST(PodVolumes, ThatAreEphemeralGoWithThePod) {
  const auto made = pod_volumes(request({ephemeral({})}, 2), settings());
  ASSERT_TRUE(made.ok());
  EXPECT_EQ(at(made->volumes, "/0"), json::value(object_of(R"({
    "ephemeral": {"volumeClaimTemplate": {
      "metadata": {"labels": {"app.kubernetes.io/managed-by": "quad", "team": "vision"}},
      "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Gi"}}, "storageClassName": "longhorn"}}},
    "name": "quad-volume-0"})")));
  EXPECT_TRUE(shared_claims(request({ephemeral({})}, 2), settings()).empty());
}

TEST(PodVolumes, ThatAreEphemeralAndForManyAreOneForTheGang) {
  const PodRequest gang = request({ephemeral({"ReadWriteMany"})}, 2);
  const auto made = pod_volumes(gang, settings());
  ASSERT_TRUE(made.ok());
  EXPECT_EQ(at(made->volumes, "/0/persistentVolumeClaim/claimName"),
            "quad-1a2b3c4d-j17-e2-volume-0");
  const json::array claims = shared_claims(gang, settings());
  ASSERT_EQ(claims.size(), 1U);
  EXPECT_EQ(at(claims[0], "/metadata/name"), "quad-1a2b3c4d-j17-e2-volume-0");
  EXPECT_EQ(at(claims[0], "/metadata/namespace"), "jobs");
  EXPECT_EQ(at(claims[0], "/spec/accessModes/0"), "ReadWriteMany");
  EXPECT_TRUE(shared_claims(request({ephemeral({"ReadWriteMany"})}, 1), settings()).empty());
}

TEST(PodVolumes, LieInTheHomeOnlyWhereThereIsOneBefore) {
  PodRequest one = request({claim("~/data", {})});
  EXPECT_NE(pod_volumes(one, settings()).error().message.find("absolute path such as /data"),
            std::string::npos);
  one.home = "/home/ana";
  EXPECT_EQ(at(pod_volumes(one, settings())->mounts, "/0/mountPath"), "/home/ana/data");
}

struct Refused {
  VolumeRequest volume;
  std::string_view part;
};

TEST(PodVolumes, AreRefusedWhereTheyCannotBe) {
  VolumeRequest climbing = claim("/data", {});
  climbing.sub_path = "../other";
  VolumeRequest rooted = claim("/data", {});
  rooted.sub_path = "/x";
  VolumeRequest host = claim("/data", {});
  host.kind = Kind::kHostPath;
  host.source = "/etc";
  VolumeRequest sizeless = ephemeral({});
  sizeless.size_bytes = 0;
  const Refused all[] = {
      {claim("/", {}), "no absolute path below /"},
      {claim("data", {}), "no absolute path below /"},
      {claim("/a/../b", {}), "no absolute path below /"},
      {claim("/quad", {}), "is taken"},
      {claim("//quad/x", {}), "is taken"},
      {claim("/dev/shm", {}), "is taken"},
      {climbing, "without '..'"},
      {rooted, "without '..'"},
      {host, "'/etc' of the nodes is not open to jobs; no path of them is"},
      {sizeless, "needs a size"},
  };
  for (const Refused& one : all) {
    const auto made = pod_volumes(request({one.volume}), settings());
    ASSERT_FALSE(made.ok()) << one.volume.destination;
    EXPECT_NE(made.error().message.find(one.part), std::string::npos) << made.error().message;
    EXPECT_EQ(made.error().where, "volumes." + one.volume.destination);
  }
  const auto twice = pod_volumes(request({claim("/data", {}), claim("/data/", {})}), settings());
  ASSERT_FALSE(twice.ok());
  EXPECT_NE(twice.error().message.find("mounted at '/data/' already"), std::string::npos)
      << twice.error().message;
}

TEST(PodVolumes, AreFoldersOfTheNodeWhereTheAdministratorAllows) {
  PodSettings some = settings();
  some.permissions.host_paths = {"/scratch", "/opt/data"};
  VolumeRequest host = claim("/data", {});
  host.kind = Kind::kHostPath;
  host.source = "/scratch/ana";
  host.sub_path = "set";
  // By subPath: below that, no link that a job has put there is followed.
  const auto made = pod_volumes(request({host}, 2), some);
  EXPECT_EQ(at(made->volumes, "/0/hostPath/path"), "/scratch");
  EXPECT_EQ(at(made->mounts, "/0/subPath"), "ana/set");
  host.source = "/etc";
  const auto refused = pod_volumes(request({host}), some);
  EXPECT_EQ(refused.error().code, ErrorCode::kDenied);
  EXPECT_NE(refused.error().message.find("open are /scratch and /opt/data"), std::string::npos);
}

TEST(PodVolumes, TakeTheStorageClassesThatAreOpen) {
  PodSettings some = settings();
  some.storage_classes = {"local", {"longhorn"}};
  EXPECT_TRUE(pod_volumes(request({ephemeral({})}), some).ok());
  VolumeRequest other = ephemeral({});
  other.storage_class = "gold";
  const auto refused = pod_volumes(request({other}), some);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kDenied);
  EXPECT_NE(refused.error().message.find("open is longhorn"), std::string::npos)
      << refused.error().message;
  other.storage_class = "";
  const auto standard = pod_volumes(request({other}), some);
  ASSERT_TRUE(standard.ok());
  EXPECT_NE(to_text(standard->volumes.back().as_object()).find(R"("storageClassName":"local")"),
            std::string::npos);
}

}  // namespace
}  // namespace quad::kubernetes
