#include "config/config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quad::config {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;
using ::testing::SizeIs;

Config config_of(std::string_view yaml, const std::vector<Override>& overrides = {}) {
  Loaded loaded = read_config(yaml, overrides);
  EXPECT_TRUE(loaded.ok()) << (loaded.errors.empty() ? "" : loaded.errors[0].message);
  return std::move(loaded.config);
}

/// The only fault.
spec::Diagnostic fault_of(std::string_view yaml, const std::vector<Override>& overrides = {}) {
  Loaded loaded = read_config(yaml, overrides);
  EXPECT_THAT(loaded.errors, SizeIs(1));
  for (std::size_t i = 1; i < loaded.errors.size(); ++i) {
    ADD_FAILURE() << loaded.errors[i].message;
  }
  return loaded.errors.empty() ? spec::Diagnostic() : std::move(loaded.errors[0]);
}

const Setting& setting_of(const Loaded& loaded, std::string_view key) {
  for (const Setting& one : loaded.settings) {
    if (one.key == key) {
      return one;
    }
  }
  static const Setting none;
  ADD_FAILURE() << "there is no setting " << key;
  return none;
}

/// A Kubernetes engine with what each needs.
std::string engine(std::string_view more) {
  return fmt::format("url: https://q.example\nengines:\n  west:\n    image: reg/quad:1\n{}", more);
}

TEST(Config, HasDefaultsForAFileThatSaysNothing) {
  for (const char* yaml : {"", "# nothing\n", "{}", "tls:\nengines:\n"}) {
    const Config config = config_of(yaml);
    EXPECT_EQ(config.listen, "127.0.0.1");
    EXPECT_EQ(config.port, -1);
    EXPECT_EQ(config.node_lost_after, Millis(20'000));
    EXPECT_EQ(config.suspect_after, Millis(5'000));
    EXPECT_EQ(config.strict_lease, Millis(30'000));
    EXPECT_EQ(config.spool_bytes, 1'000'000'000);
    EXPECT_EQ(config.jobs.defaults.cpu_milli, 2'000);
    EXPECT_EQ(config.jobs.defaults.gpu_memory_bytes, 16'000'000'000);
    EXPECT_EQ(config.jobs.limits.active_per_user, 10'000);
    ASSERT_TRUE(config.local.has_value());
    EXPECT_EQ(config.local->nodes, 0);
    EXPECT_THAT(config.kubernetes, IsEmpty());
  }
}

TEST(Config, ReadsTimesAndSizesWithTheirUnits) {
  const Config config = config_of(
      "node_lost_after: 2m\nstrict_lease: 45\nspool: 500MB\n"
      "engines: {local: {nodes: 2, cpus: 0.5, memory: 64GB}}\n");
  EXPECT_EQ(config.node_lost_after, Millis(120'000));
  EXPECT_EQ(config.strict_lease, Millis(45'000));
  EXPECT_NEAR(static_cast<double>(config.spool_bytes), 0.5e9, 0.02e9);
  EXPECT_EQ(config.local->cpu_milli, 500);
  EXPECT_EQ(config.local->memory_bytes, 64'000'000'000);
}

TEST(Config, NamesAnUnknownKeyItsPlaceAndTheNearestSpelling) {
  const spec::Diagnostic fault = fault_of("listen: 127.0.0.1\nnode_lost_afer: 20s\n");
  EXPECT_EQ(fault.key, "node_lost_afer");
  EXPECT_EQ(fault.line, 2);
  EXPECT_EQ(fault.column, 1);
  EXPECT_EQ(fault.hint, "node_lost_after");
}

TEST(Config, TellsAllFaultsAtOnceInTheOrderOfTheFile) {
  const Loaded loaded = read_config(
      "suspect_after: 1h\nport: 70000\nhot_tier: {pvc: a, host_path: /b}\nspool: 1KB\nfoo: 1\n");
  std::vector<int> lines;
  for (const spec::Diagnostic& one : loaded.errors) {
    lines.push_back(one.line);
  }
  EXPECT_THAT(lines, ElementsAre(1, 2, 3, 4, 5));
}

TEST(Config, RefusesWhatIsNoMapping) {
  EXPECT_THAT(fault_of("- listen\n").message, HasSubstr("a mapping of keys"));
  EXPECT_EQ(fault_of("a: [\n").line, 2);
  EXPECT_EQ(fault_of("port: 1\n---\nport: 2\n").line, 3);
}

TEST(Config, SaysWhatAKeyOfSkyPilotBecame) {
  EXPECT_THAT(fault_of("kubernetes: {kueue: {local_queue_name: a}}\n").message,
              HasSubstr("Quad itself queues"));
  EXPECT_THAT(fault_of("admin_policy: x\n").message, HasSubstr("jobs.limits"));
}

TEST(Config, BoundsTimes) {
  EXPECT_THAT(fault_of("node_lost_after: 2d\n").message, HasSubstr("between 1 s and"));
  EXPECT_THAT(fault_of("strict_lease: 1s\n").message, HasSubstr("strict_lease must be between"));
  EXPECT_EQ(fault_of("node_lost_after: soon\n").key, "node_lost_after");
  EXPECT_THAT(fault_of("suspect_after: 30s\n").message, HasSubstr("node_lost_after (20 s)"));
  // Unasked it follows.
  EXPECT_EQ(config_of("node_lost_after: 2s\n").suspect_after, Millis(2'000));
}

TEST(Config, TakesNoNumberThatIsNone) {
  EXPECT_EQ(fault_of("node_lost_after: .nan\n").key, "node_lost_after");
  EXPECT_EQ(fault_of("strict_lease: .inf\n").key, "strict_lease");
  EXPECT_EQ(fault_of(engine("    write_rate: .nan\n")).key, "engines.west.write_rate");
}

TEST(Config, ListensBeyondLoopbackOnlyWithTls) {
  EXPECT_EQ(config_of("listen: 0.0.0.0\n").tls.certificate, "") << "the server makes its own";
  EXPECT_THAT(fault_of("tls: {key: /k}\n").message, HasSubstr("belong together"));
  EXPECT_EQ(config_of("listen: 0.0.0.0\ntls: {key: /k, certificate: /c}\n").tls.key, "/k");
}

TEST(Config, NoPathBeginsAtAHomeFolder) {
  EXPECT_EQ(
      fault_of("engines: {a: {image: i, server_url: 'http://q', kubeconfig: ~/.kube/config}}\n")
          .key,
      "engines.a.kubeconfig");
}

TEST(Config, HasOneHotTier) {
  EXPECT_THAT(fault_of("hot_tier: {pvc: a, host_path: /b}\n").message,
              HasSubstr("host_path and pvc"));
  EXPECT_THAT(fault_of("hot_tier: {nfs: {server: n}}\n").message, HasSubstr("needs both"));
  EXPECT_EQ(fault_of("hot_tier: {host_path: data}\n").key, "hot_tier.host_path");
  EXPECT_EQ(fault_of("hot_tier: {host_path: /a/../b}\n").key, "hot_tier.host_path");
}

TEST(Config, AJobsDefaultIsWithinItsLimit) {
  EXPECT_THAT(
      fault_of("jobs: {defaults: {max_duration: 2d}, limits: {max_duration: 1d}}\n").message,
      HasSubstr("must not be longer"));
  const Config config = config_of("jobs: {limits: {max_duration: 1d, active_per_user: 3}}\n");
  EXPECT_EQ(config.jobs.defaults.max_duration, Millis(86'400'000));
  EXPECT_EQ(config.jobs.limits.active_per_user, 3);
}

// Layers.

TEST(Layers, AFlagGoesBeforeTheFileAndTheFileBeforeTheDefault) {
  const Loaded loaded =
      read_config("port: 1\nnode_lost_after: 50s\n", {{"port", spec::Node::make_int(2), "--port"}});
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(loaded.config.port, 2);
  const Setting& port = setting_of(loaded, "port");
  EXPECT_EQ(port.layer, Setting::Layer::kFlag);
  EXPECT_EQ(port.flag, "--port");
  const Setting& lost = setting_of(loaded, "node_lost_after");
  EXPECT_EQ(lost.layer, Setting::Layer::kFile);
  EXPECT_EQ(lost.value.mark.line, 2);
  EXPECT_EQ(setting_of(loaded, "listen").layer, Setting::Layer::kDefault);
  EXPECT_TRUE(setting_of(loaded, "url").value.is_null());
}

TEST(Layers, AFaultOfAFlagNamesTheFlag) {
  const std::vector<Override> flags = {
      {"engines.local.gpus", spec::Node::make_string("H100:8"), "--gpus"}};
  const spec::Diagnostic fault = fault_of("", flags);
  EXPECT_EQ(fault.line, 0);
  EXPECT_THAT(fault.message,
              HasSubstr("--gpus can be chosen for pretend nodes only; give --nodes"));
}

TEST(Layers, AFlagForAnEngineThatIsNotThereIsAFault) {
  const std::vector<Override> flags = {{"engines.local.nodes", spec::Node::make_int(2), "--nodes"}};
  EXPECT_THAT(fault_of(engine(""), flags).message, HasSubstr("--nodes is for the local engine"));
}

TEST(Layers, AnEngineGetsWhatItDoesNotSayItself) {
  const Config config = config_of(
      "url: https://q.example\n"
      "kubernetes:\n"
      "  image: reg/quad:1\n"
      "  write_rate: 5\n"
      "  write_burst: 6\n"
      "  pod_config: {metadata: {labels: {a: all}}}\n"
      "  context_configs:\n"
      "    ctx: {write_rate: 7, namespace: ours, pod_config: {metadata: {labels: {a: ctx}}}}\n"
      "engines:\n"
      "  west: {context: ctx, namespace: mine, pod_config: {metadata: {labels: {a: west}}}}\n"
      "  east: {context: other}\n");
  ASSERT_THAT(config.kubernetes, SizeIs(2));
  const Kubernetes& west = config.kubernetes[0];
  EXPECT_EQ(west.name, "west");
  EXPECT_EQ(west.image, "reg/quad:1");
  EXPECT_EQ(west.write_rate, 7);
  EXPECT_EQ(west.write_burst, 6);
  EXPECT_EQ(west.in_namespace, "mine");
  std::vector<std::string> pods;
  for (const json::object& one : west.pod_config) {
    pods.push_back(to_text(one.at("metadata").at("labels").at("a")));
  }
  EXPECT_THAT(pods, ElementsAre("\"all\"", "\"ctx\"", "\"west\""));
  const Kubernetes& east = config.kubernetes[1];
  EXPECT_EQ(east.write_rate, 5);
  EXPECT_EQ(east.in_namespace, "");
  EXPECT_THAT(east.pod_config, SizeIs(1));
  EXPECT_FALSE(config.local.has_value());
}

TEST(Layers, AllowedContextsAreEnginesOfTheirNames) {
  const Config config = config_of(
      "url: https://q.example\n"
      "kubernetes: {image: reg/quad:1, allowed_contexts: [a, b, c]}\n"
      "engines: {mine: {context: b}, c: {namespace: x}, local: }\n");
  std::vector<std::pair<std::string, std::string>> engines;
  for (const Kubernetes& one : config.kubernetes) {
    engines.emplace_back(one.name, one.context);
  }
  EXPECT_THAT(engines, ElementsAre(Pair("mine", "b"), Pair("c", "c"), Pair("a", "a")));
  EXPECT_TRUE(config.local.has_value());
}

// Kubernetes engines.

TEST(KubernetesEngine, ReadsItsKeys) {
  const Config config = config_of(
      engine("    hot_tier: {nfs: {server: n, path: /x}, mount: /shared}\n"
             "    rdma: {resources: {rdma/hca: 2}, networks: 'a/b,a/c', env: {NCCL_IB_HCA: mlx5}}\n"
             "    tolerations: [{key: gpu, operator: Exists}]\n"
             "    node_selector: {quad.io/pool: a100}\n"
             "    provision_timeout: 600\n"
             "    autoscaler: GKE\n"));
  const Kubernetes& one = config.kubernetes.at(0);
  EXPECT_EQ(one.hot_tier.nfs_server, "n");
  EXPECT_EQ(one.hot_tier.mount, "/shared");
  EXPECT_THAT(one.rdma->resources, ElementsAre(Pair("rdma/hca", 2)));
  EXPECT_EQ(one.rdma->networks, "a/b,a/c");
  EXPECT_THAT(one.tolerations, SizeIs(1));
  EXPECT_THAT(one.node_selector, ElementsAre(Pair("quad.io/pool", "a100")));
  EXPECT_EQ(one.provision_timeout, Millis(600'000));
  EXPECT_EQ(one.autoscaler, "gke");
  EXPECT_EQ(one.server_url, "https://q.example");
  EXPECT_EQ(one.write_rate, 200);
}

TEST(KubernetesEngine, TakesRdmaAsANameOrNames) {
  const auto resources = [](std::string_view yaml) {
    return config_of(engine(fmt::format("    rdma: {{resources: {}}}\n", yaml)))
        .kubernetes.at(0)
        .rdma->resources;
  };
  EXPECT_THAT(resources("rdma/ib"), ElementsAre(Pair("rdma/ib", 1)));
  EXPECT_THAT(resources("[a.b/c, a.b/d]"), ElementsAre(Pair("a.b/c", 1), Pair("a.b/d", 1)));
}

TEST(KubernetesEngine, WaitsForEverWhenToldSo) {
  EXPECT_FALSE(config_of(engine("    provision_timeout: -1\n")).kubernetes.at(0).provision_timeout);
  EXPECT_EQ(config_of(engine("")).kubernetes.at(0).provision_timeout, Millis(900'000));
  EXPECT_THAT(fault_of(engine("    provision_timeout: 0\n")).message, HasSubstr("longer than"));
}

TEST(KubernetesEngine, TakesTheServersHotTierUnlessItHasItsOwn) {
  const std::string tier = "hot_tier: {pvc: home, mount: /h}\n";
  const Config config = config_of(tier + engine("    hot_tier: {mount: /m}\n"));
  EXPECT_EQ(config.kubernetes[0].hot_tier.pvc, "home");
  EXPECT_EQ(config.kubernetes[0].hot_tier.mount, "/m");
  const Config own = config_of(tier + engine("    hot_tier: {host_path: /data}\n"));
  EXPECT_EQ(own.kubernetes[0].hot_tier.pvc, "");
  EXPECT_EQ(own.kubernetes[0].hot_tier.host_path, "/data");
  EXPECT_EQ(own.kubernetes[0].hot_tier.mount, "/h");
}

TEST(KubernetesEngine, NeedsAnImageAndAnAddressOutsideTheCluster) {
  const Loaded loaded = read_config("engines:\n  west:\n");
  ASSERT_THAT(loaded.errors, SizeIs(2));
  EXPECT_EQ(loaded.errors[0].key, "engines.west.image");
  EXPECT_EQ(loaded.errors[0].line, 2);
  EXPECT_EQ(loaded.errors[1].key, "engines.west.server_url");
  EXPECT_TRUE(config_of("engines: {west: {in_cluster: true}}\n").kubernetes[0].in_cluster);
}

TEST(KubernetesEngine, IsInTheClusterOrHasAKubeconfig) {
  EXPECT_THAT(fault_of("engines: {a: {in_cluster: true, kubeconfig: /k}}\n").message,
              HasSubstr("there is no kubeconfig"));
}

TEST(KubernetesEngine, HasAContextAndNamespaceOfItsOwn) {
  EXPECT_THAT(fault_of("url: http://q\nkubernetes: {image: i}\n"
                       "engines: {a: {context: c}, b: {context: c}}\n")
                  .message,
              HasSubstr("same context and namespace"));
}

TEST(KubernetesEngine, ItsDefaultsAreAmongThoseAllowed) {
  EXPECT_EQ(fault_of(engine("    storage_classes: {default: a, allowed: [b]}\n")).key,
            "engines.west.storage_classes.default");
}

TEST(KubernetesEngine, RefusesNamesThatKubernetesDoesNotHave) {
  for (const char* line :
       {"namespace: My_Space", "node_selector: {'a b': c}", "image: 'docker:x'",
        "image_pull_secrets: ['']", "allow_host_paths: [relative]",
        "allow_pod_config: [hostNetwork]", "allow_pod_config: ['spec.volumes[].nfs']",
        "allow_secrets: [Not_A_Name]", "pod_config: {containers: []}", "custom_metadata: {name: x}",
        "tolerations: [{key: a, effect: NoRun}]", "server_url: q.example:80",
        "rdma: {networks: 'a b'}", "type: slurm", "autoscaler: big"}) {
    EXPECT_EQ(fault_of(engine(fmt::format("    {}\n", line))).line, 5) << line;
  }
}

// Secrets.

TEST(Secrets, StandNowhereInClear) {
  const Loaded loaded = read_config(
      "url: http://q\n"
      "kubernetes:\n"
      "  image: i\n"
      "  pod_config: {spec: {containers: [{env: [{name: HF_TOKEN, value: hunter2}]}]}}\n"
      "engines: {a: , b: {context: b, rdma: {resources: r/x, env: {NCCL_API_KEY: hunter2}}}}\n");
  ASSERT_THAT(loaded.errors, SizeIs(2));
  EXPECT_EQ(loaded.errors[0].key, "kubernetes.pod_config.spec.containers[0].env[0]");
  EXPECT_THAT(loaded.errors[0].message, HasSubstr("secretKeyRef"));
  for (const spec::Diagnostic& one : loaded.errors) {
    EXPECT_THAT(one.message, Not(HasSubstr("hunter2")));
  }
}

TEST(Secrets, AKeyThatIsWrittenInsteadOfItsFileIsNotShown) {
  const spec::Diagnostic fault =
      fault_of("tls: {certificate: /c, key: \"-----BEGIN PRIVATE KEY-----\\nhunter2\"}\n");
  EXPECT_EQ(fault.key, "tls.key");
  EXPECT_THAT(fault.message, Not(HasSubstr("hunter2")));
  EXPECT_THAT(fault_of("token: hunter2\n").message, Not(HasSubstr("hunter2")));
}

TEST(Secrets, AreKnownByTheNamesOfTheirVariables) {
  for (const char* name : {"HF_TOKEN", "aws_secret_access_key", "PASSWORD", "MY_API_KEY"}) {
    EXPECT_TRUE(is_secret_name(name)) << name;
  }
  for (const char* name : {"TOKENIZERS_PARALLELISM", "NCCL_IB_HCA", "SSH_KEY_PATH", "KEY", ""}) {
    EXPECT_FALSE(is_secret_name(name)) << name;
  }
}

TEST(Secrets, AreLeftOutOfWhatIsShown) {
  Setting setting;
  setting.value = spec::Node::make_mapping();
  setting.value.set("proxy", spec::Node::make_string("http://ana:hunter2@proxy:3128/x"));
  setting.value.set("WANDB_API_KEY", spec::Node::make_string("hunter2"));
  EXPECT_EQ(to_text(shown_value(setting)),
            R"({"proxy":"http://<redacted>@proxy:3128/x","WANDB_API_KEY":"<redacted>"})");
}

TEST(Config, ReadsWhoAUsersRanksRunAs) {
  const Loaded loaded = read_config(R"(
users:
  ana: anna
  bob: {uid: 5001, gid: 100, groups: [3000, 3001]}
  eve: {uid: 5002}
  root: {account: root}
)");
  ASSERT_TRUE(loaded.ok()) << loaded.errors.front().message;
  const auto& users = loaded.config.users;
  ASSERT_EQ(users.size(), 4U);
  EXPECT_EQ(users.at("ana").account, "anna");
  EXPECT_EQ(users.at("bob").uid, 5001U);
  EXPECT_EQ(users.at("bob").gid, 100U);
  EXPECT_EQ(users.at("bob").groups, (std::vector<std::uint32_t>{3000, 3001}));
  EXPECT_EQ(users.at("eve").gid, 5002U) << "a group of its own";
  EXPECT_EQ(users.at("root").account, "root");
  EXPECT_EQ(loaded.config.local->first_reserved_uid, 2'010'000'000U);
  EXPECT_EQ(loaded.config.local->last_reserved_uid, 2'010'065'535U);
}

TEST(Config, RefusesUsersThatNobodyCouldRunAs) {
  for (const char* wrong :
       {"users: {ana: {}}", "users: {ana: {gid: 5}}", "users: {ana: {account: a, uid: 5}}",
        "users: {ana: {uid: -1}}", "users: {ana: {uid: 4294967295}}", "users: {ana: 5}",
        "users: {ana: {uid: 5, groups: [x]}}", "users: {ana: {uid: 5, shell: /bin/sh}}",
        "users: [ana]", "users: {ana: 'a:b'}", "engines: {local: {reserved_uids: 0-65535}}",
        "engines: {local: {reserved_uids: 3000-2000}}"}) {
    const Loaded loaded = read_config(wrong);
    ASSERT_FALSE(loaded.ok()) << wrong;
    EXPECT_GT(loaded.errors.front().line, 0) << wrong;
  }
}

}  // namespace
}  // namespace quad::config
