// Every key that the grammar of a task file accepts is honoured, warned about, or refused: the
// table below has an example of each, and the test walks the grammar to find keys that the table
// lacks.

#include "server/unhonoured.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "job/record.h"
#include "server/submit.h"
#include "spec/task_grammar.h"

namespace quad::server {
namespace {

enum class Fate {
  kHonoured,  ///< the request is another one, and nothing is said
  kWarned,    ///< with all below it, where the table has no row of its own for that
  kRefused,   ///< likewise
  kInvalid,   ///< spec refuses it, as SkyPilot does, though the grammar knows it
};

struct Row {
  const char* path;
  Fate fate;
  const char* yaml;       ///< beside "run: true"
  const char* key = "";   ///< that the diagnostic names; empty: the path, or one above it
  const char* base = "";  ///< what an honoured example is compared with
};

using enum Fate;

constexpr Row kTable[] = {
    {"name", kHonoured, "name: x"},
    {"num_nodes", kHonoured, "num_nodes: 2"},
    {"workdir", kHonoured, "workdir: ."},
    {"workdir.url", kHonoured, "workdir: {url: 'https://example.org/r.git'}"},
    {"workdir.ref", kHonoured, "workdir: {url: 'https://example.org/r.git', ref: v1}", "",
     "workdir: {url: 'https://example.org/r.git'}"},
    {"setup", kHonoured, "setup: make"},
    {"run", kHonoured, "run: 'false'"},
    {"envs", kHonoured, "envs: {A: 1}"},
    {"secrets", kHonoured, "secrets: {A: 1}"},
    {"managed_secrets", kRefused, "managed_secrets: [A]", "secrets.A"},
    {"managed_secrets.mount_path", kRefused, "managed_secrets: [{A: {mount_path: /a}}]",
     "managed_secrets.A"},
    {"file_mounts", kHonoured, "file_mounts: {/data: 'https://example.org/data'}"},
    {"file_mounts.*", kRefused, "file_mounts: {/data: {source: 's3://bucket', mode: COPY}}",
     "file_mounts./data"},
    {"volumes", kRefused, "volumes: {/data: {name: v}}"},
    {"service", kRefused, "service: {readiness_probe: /}"},
    {"pool", kRefused, "pool: {workers: 2}"},
    {"config", kWarned, "config: {nvidia_gpus: {disable_ecc: true}}", "config.nvidia_gpus"},
    {"config.hooks", kWarned, "config: {hooks: [{run: 'true'}]}"},
    {"config.kubernetes", kWarned, "config: {kubernetes: {provision_timeout: 5}}"},
    {"config.slurm", kWarned, "config: {slurm: {cpu_partition: p}}"},
    {"config.ssh", kWarned, "config: {ssh: {provision_timeout: 5}}"},
    {"config.docker", kWarned, "config: {docker: {run_options: '-v'}}"},
    {"config.nvidia_gpus", kWarned, "config: {nvidia_gpus: {disable_ecc: true}}"},
    {"config.azure", kWarned, "config: {azure: {vpc_name: a}}"},
    {"config.gcp", kWarned, "config: {gcp: {enable_gvnic: true}}"},
    {"config.vast", kWarned, "config: {vast: {datacenter_only: true}}"},
    {"config.active_workspace", kWarned, "config: {active_workspace: w}"},
    {"inputs", kWarned, "inputs: {'s3://a': 1}"},
    {"outputs", kWarned, "outputs: {'s3://a': 1}"},
    {"event_callback", kWarned, "event_callback: 'true'"},
    {"api_server_access", kWarned, "api_server_access: true"},
    {"file_mounts_mapping", kWarned, "file_mounts_mapping: {a: b}"},
    {"volume_mounts", kWarned,
     "volume_mounts: [{path: /a, volume_name: v, is_ephemeral: false, volume_config: {}}]"},
    {"_metadata", kWarned, "_metadata: {a: b}"},

    {"quad.kind", kWarned, "quad: {kind: session}"},
    {"quad.checkpoint.path", kHonoured, "quad: {checkpoint: {path: out}}"},
    {"quad.checkpoint.interval", kWarned, "quad: {checkpoint: {interval: 30m}}"},
    {"quad.checkpoint.keep", kHonoured, "quad: {checkpoint: {keep: 3}}"},
    {"quad.checkpoint.framework", kHonoured, "quad: {checkpoint: {framework: dcp}}"},
    {"quad.checkpoint.marker", kHonoured, "quad: {checkpoint: {framework: marker, marker: DONE}}",
     "", "quad: {checkpoint: {framework: marker, marker: READY}}"},
    {"quad.max_duration", kHonoured, "quad: {max_duration: 2h}"},
    {"quad.queue", kWarned, "quad: {queue: q}"},
    {"quad.preemptible", kWarned, "quad: {preemptible: true}"},
    {"quad.exclude_nodes", kHonoured, "quad: {exclude_nodes: [gpu]}"},
    {"quad.fence", kHonoured, "quad: {fence: strict}"},
    {"quad.depends_on", kRefused, "quad: {depends_on: [1]}"},
    {"quad.array", kRefused, "quad: {array: 3}"},
    {"quad.notify", kWarned, "quad: {notify: [me@example.org]}"},
    {"quad.stop_grace", kHonoured, "quad: {stop_grace: 5s}"},
    {"quad.stop_signal_to", kHonoured, "quad: {stop_signal_to: all}"},

    {"resources.infra", kWarned, "resources: {infra: k8s}"},
    {"resources.cloud", kRefused, "resources: {cloud: aws}"},
    {"resources.region", kRefused, "resources: {infra: '*/r'}", "resources.infra"},
    {"resources.zone", kRefused, "resources: {infra: 'aws/r/z'}", "resources.infra"},
    {"resources.cpus", kHonoured, "resources: {cpus: 3}"},
    {"resources.memory", kHonoured, "resources: {memory: 3}"},
    {"resources.accelerators", kHonoured, "resources: {accelerators: 'H100:2'}"},
    {"resources.instance_type", kWarned, "resources: {instance_type: a}"},
    {"resources.use_spot", kWarned, "resources: {use_spot: true}"},
    {"resources.job_recovery.strategy", kWarned, "resources: {job_recovery: {strategy: FAILOVER}}"},
    {"resources.job_recovery.max_restarts_on_errors", kHonoured,
     "resources: {job_recovery: {max_restarts_on_errors: 3}}"},
    {"resources.job_recovery.recover_on_exit_codes", kHonoured,
     "resources: {job_recovery: {recover_on_exit_codes: [3]}}"},
    {"resources.volumes", kWarned,
     "resources: {volumes: [{name: d, path: /d, attach_mode: read_write}]}"},
    {"resources.disk_size", kWarned, "resources: {disk_size: 100}"},
    {"resources.ephemeral_storage", kWarned, "resources: {ephemeral_storage: 100}"},
    {"resources.disk_tier", kWarned, "resources: {disk_tier: best}"},
    {"resources.network_tier", kWarned, "resources: {network_tier: best}"},
    {"resources.local_disk", kWarned, "resources: {local_disk: 'nvme:100'}"},
    {"resources.max_hourly_cost", kWarned, "resources: {max_hourly_cost: 3}"},
    {"resources.ports", kWarned, "resources: {ports: 8080}"},
    {"resources.labels", kWarned, "resources: {labels: {a: b}}"},
    {"resources.accelerator_args", kWarned,
     "resources: {accelerators: 'H100:2', accelerator_args: {tpu_name: t}}"},
    {"resources.image_id", kWarned, "resources: {image_id: 'docker:ubuntu:22.04'}"},
    {"resources.autostop", kWarned, "resources: {autostop: 10}"},
    {"resources.autostop.hook", kWarned, "resources: {autostop: {idle_minutes: 10, hook: 'true'}}",
     "config.hooks"},
    {"resources.priority", kHonoured, "resources: {priority: 3}"},
    {"resources.priority_class", kWarned, "resources: {priority_class: high}"},
    {"resources._no_missing_accel_warnings", kWarned,
     "resources: {_no_missing_accel_warnings: true}"},
    {"resources._docker_login_config", kInvalid,
     "resources: {image_id: 'docker:a', _docker_login_config: {username: a, password: b, server: "
     "c}}"},
    {"resources._is_image_managed", kWarned,
     "resources: {image_id: 'docker:a', _is_image_managed: true}"},
    {"resources._requires_fuse", kWarned, "resources: {_requires_fuse: true}"},
    {"resources._cluster_config_overrides", kWarned,
     "resources: {_cluster_config_overrides: {docker: {run_options: '-v'}}}", "config.docker"},
    {"resources.any_of", kHonoured, "resources: {any_of: [{cpus: 3}, {cpus: 4}]}"},
    {"resources.ordered", kHonoured, "resources: {ordered: [{cpus: 3}, {cpus: 4}]}"},
};

/// The paths of all keys below a rule; lists and alternatives are transparent, "*" is any key of a
/// mapping.
void gather(const spec::Rule& rule, const std::string& path, std::set<std::string>& paths) {
  using Kind = spec::Rule::Kind;
  if (rule.kind == Kind::kList && rule.item) {
    gather(*rule.item, path, paths);
  }
  for (const spec::RuleRef& one : rule.alternatives) {
    gather(*one, path, paths);
  }
  for (const spec::Field& field : rule.fields) {
    const std::string below = spec::join_path(path, field.name);
    paths.insert(below);
    gather(*field.rule, below, paths);
  }
  if (rule.kind == Kind::kMap && rule.item && rule.fields.empty()) {
    gather(*rule.item, path, paths);
  }
}

std::set<std::string> paths_of_grammar() {
  std::set<std::string> paths;
  gather(spec::task_rule(), "", paths);
  gather(spec::resources_rule(), "resources", paths);
  gather(spec::service_rule(), "service", paths);
  gather(spec::storage_rule(), "file_mounts.*", paths);
  return paths;
}

const Row* row_of(const std::string& path) {
  const auto* row = std::find_if(std::begin(kTable), std::end(kTable),
                                 [&](const Row& one) { return one.path == path; });
  return row == std::end(kTable) ? nullptr : row;
}

/// Whether the path has a row, or lies below a section that is refused or warned about as a whole,
/// or is only the head of keys that have rows.
bool is_decided(const std::string& path, const std::set<std::string>& paths) {
  if (row_of(path) != nullptr) {
    return true;
  }
  // A candidate of resources has the keys of resources.
  for (const std::string group : {"resources.any_of.", "resources.ordered."}) {
    if (path.starts_with(group)) {
      return is_decided("resources." + path.substr(group.size()), paths);
    }
  }
  for (std::size_t dot = path.rfind('.'); dot != std::string::npos;
       dot = path.rfind('.', dot - 1)) {
    const Row* above = row_of(path.substr(0, dot));
    if (above != nullptr &&
        (above->fate == kWarned || above->fate == kRefused || above->fate == kInvalid)) {
      return true;
    }
    if (dot == 0) {
      break;
    }
  }
  const auto below = paths.upper_bound(path + ".");
  if (below == paths.end() || !below->starts_with(path + ".")) {
    return false;
  }
  return std::all_of(below, paths.end(), [&](const std::string& one) {
    return !one.starts_with(path + ".") || is_decided(one, paths);
  });
}

class Unhonoured : public testing::TestWithParam<Row> {
 protected:
  static Prepared prepared(const std::string& extra) {
    control::Snapshot snapshot;
    pool::NodeSpec node;
    node.id = NodeId("gpu");
    node.capacity = {64'000, 256'000'000'000, 8};
    node.gpu_model = "H100";
    snapshot.pool.put_node(node);
    node.id = NodeId("gpu-2");
    snapshot.pool.put_node(node);
    SubmitContext context;
    context.owner = "ana";
    context.secret_key = std::string(32, 'k');
    context.workdir_blob = std::string(64, 'a');
    context.snapshot = &snapshot;
    const std::string yaml = (extra.starts_with("run:") ? "" : "run: 'true'\n") + extra + "\n";
    const spec::TaskSet set = spec::parse(yaml, {});
    if (!set.ok()) {
      Prepared invalid;
      invalid.errors = set.errors;
      return invalid;
    }
    return prepare(set, context);
  }
  /// What the planner and the runner are told, without the task as it was written.
  static std::string told(const Prepared& prepared) {
    json::object request = job::to_json(prepared.requests.at(0));
    json::object body = parse_json_object(prepared.requests.at(0).body).value();
    body.erase("task");
    request["body"] = std::move(body);
    return to_text(request);
  }
  static std::string text_of(const std::vector<spec::Diagnostic>& all) {
    std::string text;
    for (const spec::Diagnostic& one : all) {
      text += std::to_string(one.line) + ": " + one.key + ": " + one.message + "\n";
    }
    return text;
  }
  /// Whether one of them is about the row's key, in a sentence, and says where that is.
  static bool tells(const std::vector<spec::Diagnostic>& all, const Row& row) {
    return std::any_of(all.begin(), all.end(), [&](const spec::Diagnostic& one) {
      const std::string path = row.path;
      const bool named = *row.key != '\0' ? one.key == row.key
                                          : one.key == path || path.starts_with(one.key + ".");
      return named && !one.key.empty() && one.message.size() > 20 && one.line > 0 && one.column > 0;
    });
  }
};

TEST_P(Unhonoured, IsDoneOrSaid) {
  const Row& row = GetParam();
  const Prepared got = prepared(row.yaml);
  switch (row.fate) {
    case kHonoured:
      EXPECT_TRUE(got.errors.empty()) << text_of(got.errors);
      EXPECT_TRUE(got.warnings.empty()) << text_of(got.warnings);
      EXPECT_NE(told(got), told(prepared(row.base)));
      break;
    case kWarned:
      EXPECT_TRUE(got.errors.empty()) << text_of(got.errors);
      EXPECT_TRUE(tells(got.warnings, row)) << text_of(got.warnings);
      break;
    case kRefused:
      EXPECT_TRUE(tells(got.errors, row)) << text_of(got.errors);
      EXPECT_FALSE(got.requests.empty()) << "spec refuses it already";
      break;
    case kInvalid:
      EXPECT_TRUE(tells(got.errors, row)) << text_of(got.errors);
      EXPECT_TRUE(got.requests.empty()) << "spec accepts it";
      break;
  }
}

INSTANTIATE_TEST_SUITE_P(EveryKey, Unhonoured, testing::ValuesIn(kTable), [](const auto& row) {
  std::string name = row.param.path;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == '.' || c == '*'; }, '_');
  return name;
});

TEST(UnhonouredTable, HasEveryKeyOfTheGrammar) {
  const auto paths = paths_of_grammar();
  ASSERT_GT(paths.size(), 150U);
  for (const std::string& path : paths) {
    EXPECT_TRUE(is_decided(path, paths))
        << path << " may stand in a task file, and the table does not say what becomes of it";
  }
}

TEST(UnhonouredTable, HasOnlyKeysOfTheGrammar) {
  auto paths = paths_of_grammar();
  paths.insert("file_mounts.*");
  for (const Row& row : kTable) {
    EXPECT_TRUE(paths.contains(row.path)) << row.path;
  }
}

TEST(Findings, SayAWarningOfSeveralAlternativesOnce) {
  Findings findings;
  findings.warn("a", "b");
  findings.warn("a", "b");
  findings.warn("a", "c");
  EXPECT_EQ(findings.warnings.size(), 2U);
}

}  // namespace
}  // namespace quad::server
