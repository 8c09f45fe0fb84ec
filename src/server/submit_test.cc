#include "server/submit.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>

#include "server/crypto.h"

namespace quad::server {
namespace {

class Submit : public testing::Test {
 protected:
  control::Snapshot snapshot_;
  SubmitContext context_;

  void SetUp() override {
    context_.owner = "ana";
    context_.now = *parse_rfc3339("2026-11-23T17:16:40.123Z");
    context_.secret_key = std::string(32, 'k');
    context_.snapshot = &snapshot_;
  }
  void node(const std::string& name, int cpus, std::int64_t gigabytes,
            const std::string& model = "", int gpus = 0) {
    pool::NodeSpec spec;
    spec.id = NodeId(name);
    spec.capacity = {cpus * 1'000, gigabytes * 1'000'000'000, gpus};
    spec.gpu_model = model;
    snapshot_.pool.put_node(spec);
  }
  Prepared prepared(std::string_view yaml, const spec::Overrides& overrides = {}) {
    const spec::TaskSet set = spec::parse(yaml, overrides);
    EXPECT_TRUE(set.ok()) << set.errors.front().message;
    return prepare(set, context_);
  }
  static std::string errors_of(const Prepared& prepared) {
    std::string all;
    for (const auto& error : prepared.errors) {
      all += error.key + ": " + error.message + " " + error.hint + "\n";
    }
    return all;
  }
};

TEST_F(Submit, ACpuTaskGetsSkyPilotsDefaults) {
  node("n1", 64, 256);
  const Prepared got = prepared("run: echo hi\n");
  ASSERT_TRUE(got.errors.empty()) << errors_of(got);
  ASSERT_EQ(got.requests.size(), 1U);
  ASSERT_EQ(got.requests[0].shapes.size(), 1U);
  EXPECT_EQ(got.requests[0].shapes[0].per_rank, (pool::Resources{2'000, 2'000'000'000, 0}));
  EXPECT_EQ(got.requests[0].owner, "ana");
}

TEST_F(Submit, AGpuTaskGetsFourCpusAndSixteenGigabytesForEachGpu) {
  node("n1", 64, 256, "H100", 8);
  const Prepared got = prepared("resources: {accelerators: 'h100:2'}\nrun: echo hi\n");
  ASSERT_TRUE(got.errors.empty()) << errors_of(got);
  EXPECT_EQ(got.requests.at(0).shapes.at(0).per_rank, (pool::Resources{8'000, 32'000'000'000, 2}));
  EXPECT_EQ(got.requests.at(0).shapes.at(0).gpu_model, "H100");
}

TEST_F(Submit, DefaultsNeverExceedALaptop) {
  node("laptop", 1, 1);
  const Prepared got = prepared("run: echo hi\n");
  ASSERT_TRUE(got.errors.empty()) << errors_of(got);
  EXPECT_EQ(got.requests.at(0).shapes.at(0).per_rank, (pool::Resources{1'000, 1'000'000'000, 0}));
}

TEST_F(Submit, GpuDefaultsFitTheNodesThatHaveTheGpu) {
  node("cpu", 64, 512);
  node("gpu", 4, 16, "A100", 8);
  const Prepared got = prepared("resources: {accelerators: 'A100:8'}\nrun: echo hi\n");
  ASSERT_TRUE(got.errors.empty()) << errors_of(got);
  EXPECT_LE(got.requests.at(0).shapes.at(0).per_rank.cpu_milli, 4'000);
  EXPECT_LE(got.requests.at(0).shapes.at(0).per_rank.memory_bytes, 16'000'000'000);
}

TEST_F(Submit, TheConfigurationSaysWhatATaskGetsThatAsksForNothing) {
  node("n1", 64, 256, "H100", 8);
  config::JobDefaults& usual = context_.jobs.defaults;
  usual.cpu_milli = 3'000;
  usual.memory_bytes = 5'000'000'000;
  usual.gpu_cpu_milli = 7'000;
  usual.gpu_memory_bytes = 9'000'000'000;
  usual.max_duration = Millis(3'600'000);
  const Prepared cpu = prepared("run: x\n");
  EXPECT_EQ(cpu.requests.at(0).shapes.at(0).per_rank, (pool::Resources{3'000, 5'000'000'000, 0}));
  EXPECT_EQ(cpu.requests.at(0).max_duration, Millis(3'600'000));
  const Prepared gpu = prepared("resources: {gpus: 'H100:2', memory: 1}\nrun: x\n");
  EXPECT_EQ(gpu.requests.at(0).shapes.at(0).per_rank, (pool::Resources{14'000, 1'000'000'000, 2}));
  const Prepared asked = prepared("run: x\nquad: {max_duration: 2h}\n");
  EXPECT_EQ(asked.requests.at(0).max_duration, Millis(7'200'000));
}

TEST_F(Submit, NoTaskMayRunLongerThanTheConfigurationAllows) {
  node("n1", 64, 256);
  context_.jobs.limits.max_duration = Millis(3'600'000);
  EXPECT_TRUE(prepared("run: x\nquad: {max_duration: 60m}\n").errors.empty());
  const Prepared refused = prepared("run: x\nquad: {max_duration: 61m}\n");
  ASSERT_EQ(refused.errors.size(), 1U);
  EXPECT_EQ(refused.errors[0].key, "quad.max_duration");
  EXPECT_NE(refused.errors[0].message.find("at most 1 h here, not 1 h 1 min"), std::string::npos)
      << refused.errors[0].message;
}

TEST_F(Submit, AskingForMoreThanAnyNodeHasSaysWhatThereIs) {
  node("n1", 8, 32);
  const Prepared cpus = prepared("resources: {cpus: 16}\nrun: echo hi\n");
  ASSERT_EQ(cpus.errors.size(), 1U) << errors_of(cpus);
  EXPECT_EQ(cpus.errors[0].key, "resources.cpus");
  EXPECT_NE(cpus.errors[0].message.find('8'), std::string::npos);
  const Prepared memory = prepared("resources: {memory: 64}\nrun: echo hi\n");
  ASSERT_EQ(memory.errors.size(), 1U) << errors_of(memory);
  EXPECT_EQ(memory.errors[0].key, "resources.memory");
}

TEST_F(Submit, ANodeWithSoMuchMemoryFitsATaskThatAsksForIt) {
  node("n1", 8, 32);
  const Prepared got = prepared("resources: {memory: 32}\nrun: echo hi\n");
  ASSERT_TRUE(got.errors.empty()) << errors_of(got);
  EXPECT_EQ(got.requests.at(0).shapes.at(0).per_rank.memory_bytes, 32'000'000'000);
}

TEST_F(Submit, AnUnknownAcceleratorNamesTheNearestThatThereIs) {
  node("n1", 64, 256, "H100", 8);
  const Prepared got = prepared("resources: {accelerators: 'H10:1'}\nrun: echo hi\n");
  ASSERT_EQ(got.errors.size(), 1U) << errors_of(got);
  EXPECT_EQ(got.errors[0].key, "resources.accelerators");
  EXPECT_NE(errors_of(got).find("H100"), std::string::npos);
}

TEST_F(Submit, AlternativesThatFitNowhereAreLeftOutAsLongAsOneFits) {
  node("n1", 64, 256, "A100", 8);
  const Prepared got = prepared(
      "resources:\n  any_of:\n  - accelerators: 'H100:8'\n  - accelerators: 'A100:8'\nrun: echo "
      "hi\n");
  ASSERT_TRUE(got.errors.empty()) << errors_of(got);
  ASSERT_EQ(got.requests.at(0).shapes.size(), 1U);
  EXPECT_EQ(got.requests[0].shapes[0].gpu_model, "A100");
  const Prepared none = prepared(
      "resources:\n  any_of:\n  - accelerators: 'H100:8'\n  - accelerators: 'B200:8'\nrun: echo "
      "hi\n");
  EXPECT_FALSE(none.errors.empty());
}

TEST_F(Submit, SecretsAreSealedAndShownNowhere) {
  node("n1", 8, 32);
  spec::Overrides overrides;
  overrides.secrets = {{"TOKEN", "hunter2-very-secret"}};
  const Prepared got = prepared("run: echo hi\n", overrides);
  ASSERT_TRUE(got.errors.empty()) << errors_of(got);
  const std::string& body = got.requests.at(0).body;
  EXPECT_EQ(body.find("hunter2"), std::string::npos) << body;
  const auto object = parse_json_object(body);
  ASSERT_TRUE(object.ok());
  const auto opened = open_sealed(context_.secret_key, "ana", get_string(*object, "sealed"));
  ASSERT_TRUE(opened.ok());
  EXPECT_EQ(*opened, R"({"secrets":[["TOKEN","hunter2-very-secret"]],"mounts":[]})");
}

TEST_F(Submit, ALocalWorkdirNeedsItsUpload) {
  node("n1", 8, 32);
  const Prepared without = prepared("workdir: .\nrun: echo hi\n");
  ASSERT_EQ(without.errors.size(), 1U) << errors_of(without);
  EXPECT_EQ(without.errors[0].key, "workdir");
  context_.workdir_blob = std::string(64, 'a');
  const Prepared with = prepared("workdir: .\nrun: echo hi\n");
  ASSERT_TRUE(with.errors.empty()) << errors_of(with);
  EXPECT_NE(with.requests.at(0).body.find(context_.workdir_blob), std::string::npos);
}

TEST_F(Submit, WhatCannotWorkIsAnErrorThatNamesTheKey) {
  node("n1", 8, 32);
  const Prepared bucket = prepared("file_mounts:\n  /data: s3://my-bucket/x\nrun: echo hi\n");
  ASSERT_EQ(bucket.errors.size(), 1U) << errors_of(bucket);
  EXPECT_EQ(bucket.errors[0].key, "file_mounts./data");
  EXPECT_NE(bucket.errors[0].message.find("s3://my-bucket/x"), std::string::npos);
  const Prepared cloud = prepared("resources: {infra: aws}\nrun: echo hi\n");
  ASSERT_EQ(cloud.errors.size(), 1U) << errors_of(cloud);
  EXPECT_EQ(cloud.errors[0].key, "resources.infra");
  EXPECT_FALSE(
      prepared("name: a\n---\nname: b\nrun: echo 1\n---\nname: c\nrun: echo 2\n").errors.empty());
}

/// "line:column key", one for each.
std::string places_of(const std::vector<spec::Diagnostic>& all) {
  std::string text;
  for (const spec::Diagnostic& one : all) {
    text += std::to_string(one.line) + ":" + std::to_string(one.column) + " " + one.key + "\n";
  }
  return text;
}

TEST_F(Submit, AFaultThatOnlyTheNodesShowSaysWhereItStands) {
  node("n1", 8, 32, "H100", 8);
  EXPECT_EQ(places_of(prepared("run: x\nresources:\n  cpus: 99\n").errors), "3:9 resources.cpus\n");
  EXPECT_EQ(places_of(prepared("resources: {memory: 2, gpus: 'H1000:1'}\nrun: x\n").errors),
            "1:30 resources.accelerators\n");
  EXPECT_EQ(places_of(prepared("resources:\n  cloud: aws\nrun: x\n").errors),
            "2:10 resources.cloud\n");
  EXPECT_EQ(places_of(prepared("run: x\nworkdir: here\nfile_mounts:\n  /a: s3://b/c.d\n"
                               "  /x/../y: ./z\n")
                          .errors),
            "5:12 file_mounts./x/../y\n2:10 workdir\n4:7 file_mounts./a\n"
            "5:12 file_mounts./x/../y\n");
  EXPECT_EQ(places_of(prepared("run: x\nquad:\n  depends_on:\n    - 7\n").errors),
            "3:3 quad.depends_on\n");
  EXPECT_EQ(places_of(prepared("managed_secrets:\n- A\n- B: {mount_path: /b}\nrun: x\n").errors),
            "2:3 secrets.A\n3:3 secrets.B\n3:3 managed_secrets.B\n");
  EXPECT_EQ(places_of(prepared("run: x\nquad:\n  exclude_nodes:\n  - n1\n  - n2\n").warnings),
            "5:5 quad.exclude_nodes\n");
  EXPECT_EQ(places_of(prepared("name: a\nrun: x\n---\nname: b\nrun: y\n").errors), "4:1 \n");
  EXPECT_EQ(places_of(prepared("name: a\nexecution: parallel\n---\nname: b\nrun: y\n").errors),
            "2:12 execution\n");
}

TEST_F(Submit, EachAlternativeIsNamedAtItsOwnPlace) {
  node("n1", 8, 32, "A100", 8);
  EXPECT_EQ(places_of(prepared("resources:\n  cpus: 99\n  any_of:\n  - accelerators: H100:8\n"
                               "  - cpus: 77\nrun: x\n")
                          .warnings),
            "4:19 resources.accelerators\n5:11 resources.cpus\n");
  EXPECT_EQ(
      places_of(
          prepared("resources:\n  accelerators:\n    B200: 1\n    A100: 1\nrun: x\n").warnings),
      "3:5 resources.accelerators\n");
}

TEST_F(Submit, WhatTheCommandLineSaidHasNoLine) {
  node("n1", 8, 32);
  spec::Overrides overrides;
  overrides.gpus = "H100:1";
  overrides.workdir = "elsewhere";
  EXPECT_EQ(places_of(prepared("workdir: .\nrun: x\nresources: {gpus: T4}\n", overrides).errors),
            "0:0 resources.accelerators\n0:0 workdir\n");
}

TEST_F(Submit, WhatIsHarmlessIsAWarning) {
  node("n1", 8, 32);
  const Prepared got = prepared(
      "resources: {use_spot: true, ports: 8080, image_id: 'docker:ubuntu:22.04'}\nrun: echo hi\n");
  EXPECT_TRUE(got.errors.empty()) << errors_of(got);
  EXPECT_EQ(got.warnings.size(), 3U);
}

job::Job job_of(const job::Request& request) {
  job::Job job;
  job.id = JobId(17);
  job.request = std::make_shared<const job::Request>(request);
  job.submitted_at = WallTime{1'795'454'200'123};
  job::Attempt attempt;
  attempt.epoch = Epoch(2);
  for (int rank = 0; rank < request.ranks; ++rank) {
    job::RankRecord record;
    record.holding.node = NodeId("n" + std::to_string(rank));
    record.holding.amount.gpus = 4;
    record.address = "127.64.0." + std::to_string(rank + 1);
    record.port = 41'000 + rank;
    attempt.ranks.push_back(record);
  }
  attempt.resume = job::Resume{"/hot/17/e2/step-500", 500, ""};
  job.attempts.push_back(attempt);
  return job;
}

TEST_F(Submit, TheTaskIdIsTheSameInWhicheverZoneTheServerComesBack) {
  node("n1", 8, 32);
  const auto in_zone = [](const char* zone) {
    ::setenv("TZ", zone, 1);
    ::tzset();
  };
  in_zone("Asia/Tokyo");
  const Prepared got = prepared("name: train\nnum_nodes: 2\nrun: x\n");
  ASSERT_TRUE(got.errors.empty()) << errors_of(got);
  const job::Job job = job_of(got.requests.at(0));
  const RankKey key{JobId(17), Epoch(2), Rank(1)};
  for (const char* zone : {"Asia/Tokyo", "UTC", "America/New_York"}) {
    in_zone(zone);
    const auto order = make_order(job, got.requests[0].body, key, context_.secret_key, "/hot");
    ASSERT_TRUE(order.ok());
    EXPECT_EQ(get_string(*order, "task_id"), "sky-managed-2026-11-24-02-16-40-123000_train_17-0");
  }
  ::unsetenv("TZ");
  ::tzset();
}

TEST_F(Submit, TheOrderCarriesSecretsInClearAndTheTaskIdInSkyPilotsForm) {
  node("n1", 8, 32);
  spec::Overrides overrides;
  overrides.secrets = {{"TOKEN", "hunter2"}};
  overrides.envs = {{"LR", "0.1"}};
  const Prepared got = prepared("name: train\nnum_nodes: 2\nsetup: make\nrun: ./go\n", overrides);
  ASSERT_TRUE(got.errors.empty()) << errors_of(got);
  const job::Job job = job_of(got.requests.at(0));
  const RankKey key{JobId(17), Epoch(2), Rank(1)};
  const auto order = make_order(job, got.requests[0].body, key, context_.secret_key, "/hot");
  ASSERT_TRUE(order.ok()) << order.error().message;
  EXPECT_EQ(get_int(*order, "num_ranks"), 2);
  EXPECT_EQ(get_int(*order, "num_gpus"), 4);
  EXPECT_EQ(get_string(*order, "setup"), "make");
  EXPECT_EQ(get_string(*order, "run"), "./go");
  EXPECT_EQ(to_text(order->at("secrets")), R"([["TOKEN","hunter2"]])");
  EXPECT_EQ(to_text(order->at("envs")), R"([["LR","0.1"]])");
  EXPECT_EQ(to_text(order->at("ips")), R"(["127.64.0.1","127.64.0.2"])");
  const std::string task_id(get_string(*order, "task_id"));
  EXPECT_TRUE(task_id.starts_with("sky-managed-2026-11-23-")) << task_id;
  EXPECT_TRUE(task_id.ends_with("_train_17-0")) << task_id;
  EXPECT_EQ(get_string(*get_object(*order, "checkpoint"), "job_dir"), "/hot/17");
  const json::object go = make_go(job, key);
  EXPECT_EQ(get_string(go, "master_addr"), "127.64.0.1");
  EXPECT_EQ(get_int(go, "master_port"), 41'000);
  EXPECT_EQ(get_string(go, "resume_from"), "/hot/17/e2/step-500");
  EXPECT_EQ(get_int(go, "resume_step"), 500);
}

TEST_F(Submit, ASecretFilledIntoAnAddressIsRecordedSealed) {
  node("n1", 8, 32);
  spec::Overrides overrides;
  overrides.secrets = {{"TOKEN", "hunter2"}};
  const Prepared got = prepared(
      "workdir: {url: 'https://ana:${TOKEN}@git.example/a.git'}\n"
      "file_mounts: {/data: 'https://data.example/x?token=${TOKEN}'}\nrun: ./go\n",
      overrides);
  ASSERT_TRUE(got.errors.empty()) << errors_of(got);
  EXPECT_EQ(got.requests.at(0).body.find("hunter2"), std::string::npos) << got.requests[0].body;
  const auto order = make_order(job_of(got.requests[0]), got.requests[0].body,
                                {JobId(17), Epoch(2), Rank(0)}, context_.secret_key, "/hot");
  ASSERT_TRUE(order.ok()) << order.error().message;
  EXPECT_EQ(get_string(*get_object(*order, "workdir"), "git"),
            "https://ana:hunter2@git.example/a.git");
  EXPECT_EQ(get_string(get_array(*order, "mounts")->at(0).as_object(), "url"),
            "https://data.example/x?token=hunter2");
}

TEST_F(Submit, AnOrderForAnAttemptThatIsOverIsRefused) {
  node("n1", 8, 32);
  const Prepared got = prepared("run: ./go\n");
  const job::Job job = job_of(got.requests.at(0));
  EXPECT_FALSE(make_order(job, got.requests[0].body, {JobId(17), Epoch(1), Rank(0)},
                          context_.secret_key, "/hot")
                   .ok());
}

class SubmitToACluster : public Submit {
 protected:
  std::map<std::string, kubernetes::PodSettings> pods_{{"west", {}}};

  void SetUp() override {
    Submit::SetUp();
    context_.clusters = {"west"};
    context_.pods = &pods_;
    pool::NodeSpec spec;
    spec.id = NodeId("n1");
    spec.engine = "west";
    spec.capacity = {64'000, 256'000'000'000, 0, {{"nvidia.com/mig-1g.5gb", 7}, {"rdma/hca", 1}}};
    snapshot_.pool.put_node(spec);
  }
};

TEST_F(SubmitToACluster, APlaceNamesItsEngine) {
  const auto engines = [&](const char* infra) {
    const Prepared got =
        prepared(fmt::format("resources: {{infra: {}, cpus: 1}}\nrun: echo hi\n", infra));
    if (!got.errors.empty()) {
      return errors_of(got);
    }
    std::string all;
    for (const job::Shape& shape : got.requests.at(0).shapes) {
      all += shape.engine + ";";
    }
    return all;
  };
  EXPECT_EQ(engines("k8s"), ";");
  EXPECT_EQ(engines("local"),
            "resources.infra: This server's own machine runs no jobs; they run on k8s/west. \n");
  context_.has_local = true;
  context_.clusters.emplace_back("east");
  pods_["east"] = {};
  node("here", 8, 32);
  EXPECT_EQ(engines("local"), "local;");
  EXPECT_EQ(engines("k8s/east"), "resources.cpus: No node has 1 CPUs; the largest has 0. \n");
  EXPECT_EQ(engines("k8s/west"), "west;");
  EXPECT_EQ(engines("k8s"), "west;east;") << "any of the clusters, and not this machine";
  EXPECT_EQ(engines("'*'"), ";");
  EXPECT_EQ(engines("aws/r"),
            "resources.infra: There is no 'aws/r' here; jobs run on local, k8s/west and "
            "k8s/east. leave infra out\n");
}

TEST_F(SubmitToACluster, APartOfAGpuIsADevice) {
  for (const char* name : {"MIG-1g.5gb", "mig-1G.5GB", "nvidia.com/mig-1g.5gb"}) {
    const Prepared got =
        prepared(fmt::format("resources: {{accelerators: {{{}: 2}}}}\nrun: echo hi\n", name));
    ASSERT_TRUE(got.errors.empty()) << errors_of(got);
    const pool::Resources& each = got.requests.at(0).shapes.at(0).per_rank;
    EXPECT_EQ(each.gpus, 0);
    EXPECT_EQ(each.devices, (std::map<std::string, std::int64_t>{{"nvidia.com/mig-1g.5gb", 2}}));
  }
  const Prepared much = prepared("resources: {accelerators: {MIG-1g.5gb: 8}}\nrun: echo hi\n");
  EXPECT_NE(errors_of(much).find("the most that one has is 7"), std::string::npos)
      << errors_of(much);
}

TEST_F(SubmitToACluster, TheBestNetworkIsADeviceWhereItIsConfigured) {
  const char* task = "resources: {network_tier: best}\nrun: echo hi\n";
  const Prepared without = prepared(task);
  EXPECT_TRUE(without.requests.at(0).shapes.at(0).per_rank.devices.empty());
  EXPECT_NE(without.warnings.size(), 0U);
  pods_.at("west").rdma = kubernetes::RdmaSettings{{{"rdma/hca", 1}}, "", true, {}};
  const Prepared with = prepared(task);
  ASSERT_TRUE(with.errors.empty()) << errors_of(with);
  EXPECT_EQ(with.requests.at(0).shapes.at(0).per_rank.devices,
            (std::map<std::string, std::int64_t>{{"rdma/hca", 1}}));
  EXPECT_EQ(with.requests.at(0).shapes.at(0).engine, "west");
}

TEST_F(SubmitToACluster, WhatNoPodCanBeIsRefusedByItsKey) {
  const Prepared got = prepared("volumes: {/quad: data}\nrun: echo hi\n");
  EXPECT_NE(errors_of(got).find("volumes./quad"), std::string::npos) << errors_of(got);
  pods_.at("west").priority_classes.allowed = {"research"};
  EXPECT_NE(errors_of(prepared("resources: {priority_class: urgent}\nrun: echo hi\n"))
                .find("open is research"),
            std::string::npos);
  context_.has_local = true;
  EXPECT_TRUE(prepared("resources: {priority_class: urgent}\nrun: echo hi\n").errors.empty())
      << "it can run on this machine";
}

TEST_F(SubmitToACluster, WhatAClusterDoesNotGiveIsAWarning) {
  const Prepared got = prepared("run: echo hi\n");
  ASSERT_EQ(got.warnings.size(), 1U);
  EXPECT_NE(got.warnings[0].message.find("step 0"), std::string::npos);
}

TEST_F(Submit, ATaskForANewClusterTakesAShareOfWhatItsHolderHolds) {
  node("n1", 64, 256, "H100", 8);
  context_.cluster = ClusterTarget{"dev", false, nullptr};
  const Prepared got = prepared(
      "setup: make\nrun: go\nsecrets: {A: hidden}\n"
      "resources: {accelerators: 'H100:4', cpus: 16, autostop: {idle_minutes: 30, down: true}}\n");
  ASSERT_TRUE(got.errors.empty()) << errors_of(got);
  EXPECT_TRUE(got.warnings.empty()) << got.warnings.front().message;
  const job::Request& task = got.requests.at(0);
  EXPECT_EQ(task.cluster, "dev");
  EXPECT_EQ(task.shapes.at(0).per_rank, (pool::Resources{500, 0, 4}));
  EXPECT_EQ(task.shapes.at(0).engine, "cluster dev");
  ASSERT_TRUE(got.holder);
  EXPECT_EQ(got.holder->kind, job::Kind::kHolder);
  EXPECT_EQ(got.holder->shapes.at(0).per_rank.cpu_milli, 16'000);
  EXPECT_EQ(got.holder->shapes.at(0).per_rank.gpus, 4);
  EXPECT_TRUE(got.holder->shapes.at(0).engine.empty());
  EXPECT_EQ(got.holder->body.find("hidden"), std::string::npos);
  const auto body = parse_json_object(got.holder->body);
  EXPECT_TRUE(get_bool(*body, "hold"));
  EXPECT_TRUE(get_string(*body, "run").empty());
  EXPECT_EQ(got.autostop, (control::Autostop{Millis(30 * 60'000), true,
                                             control::Autostop::WaitFor::kJobsAndSsh}));
}

class SubmitToCluster : public Submit {
 protected:
  void SetUp() override {
    Submit::SetUp();
    auto request = std::make_shared<job::Request>();
    request->kind = job::Kind::kHolder;
    request->cluster = "dev";
    request->ranks = 2;
    request->shapes = {{{8'000, 32'000'000'000, 4}, "H100", ""}};
    auto holder = std::make_shared<job::Job>();
    holder->request = request;
    context_.cluster = ClusterTarget{"dev", true, holder};
  }
};

TEST_F(SubmitToCluster, ExecBringsNeitherMountsNorSetup) {
  const Prepared got = prepared(
      "num_nodes: 2\nsetup: make\nrun: go\nfile_mounts: {/data: ./here}\n"
      "resources: {accelerators: 'h100:2', cpus: 8, memory: 32}\n");
  ASSERT_TRUE(got.errors.empty()) << errors_of(got);
  EXPECT_FALSE(got.holder);
  EXPECT_EQ(got.requests.at(0).shapes.at(0).per_rank, (pool::Resources{500, 0, 2}));
  const auto body = parse_json_object(got.requests.at(0).body);
  EXPECT_EQ(get_string(*body, "setup"), "");
  EXPECT_TRUE(get_array(*body, "mounts")->empty());
}

TEST_F(SubmitToCluster, WhatDoesNotFitIsRefusedWithBothSides) {
  for (const auto& [yaml, error] : std::vector<std::pair<std::string, std::string>>{
           {"resources: {accelerators: 'H100:8'}",
            "resources.accelerators: Cluster dev has H100:4 on each node; the task asks for "
            "H100:8."},
           {"resources: {accelerators: A100}",
            "resources.accelerators: Cluster dev has H100:4 on each node; the task asks for "
            "A100:1."},
           {"resources: {cpus: 16}",
            "resources.cpus: Cluster dev has 8 CPUs on each node; the task asks for 16."},
           {"resources: {memory: 64}",
            "resources.memory: Cluster dev has 32.0 GB of memory on each node; the task asks for "
            "64.0."},
           {"num_nodes: 3", "num_nodes: Cluster dev has 2 nodes; the task asks for 3."}}) {
    const std::string errors = errors_of(prepared("run: go\n" + yaml + "\n"));
    EXPECT_TRUE(errors.starts_with(error)) << errors;
  }
}

}  // namespace
}  // namespace quad::server
