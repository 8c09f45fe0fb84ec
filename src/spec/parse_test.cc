#include "spec/parse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fmt/format.h>

namespace quad::spec {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

Task task_of(std::string_view yaml, const Overrides& overrides = {}) {
  TaskSet set = parse(yaml, overrides);
  EXPECT_TRUE(set.ok()) << (set.errors.empty() ? "" : set.errors[0].message);
  return set.tasks.empty() ? Task() : std::move(set.tasks[0]);
}

Diagnostic fault_of(std::string_view yaml, const Overrides& overrides = {}) {
  const TaskSet set = parse(yaml, overrides);
  EXPECT_FALSE(set.ok());
  return set.errors.empty() ? Diagnostic{} : set.errors[0];
}

std::string json_of(std::string_view yaml) {
  return to_text(json::value(to_json(task_of(yaml))));
}

TEST(Parse, NamesAnUnknownKeyItsPlaceAndTheNearestSpelling) {
  const Diagnostic fault = fault_of("run: x\nresources:\n  acelerators: H100\n");
  EXPECT_EQ(fault.key, "resources.acelerators");
  EXPECT_EQ(fault.hint, "accelerators");
  EXPECT_EQ(fault.line, 3);
  EXPECT_EQ(fault.column, 3);
  EXPECT_THAT(fault.message, HasSubstr("did you mean accelerators?"));
}

TEST(Parse, KnowsWordsFromElsewhere) {
  EXPECT_EQ(fault_of("resources: {mem: 4}\n").hint, "memory");
  EXPECT_EQ(fault_of("nodes: 2\n").hint, "num_nodes");
  EXPECT_EQ(fault_of("resources: {spot_recovery: x}\n").hint, "job_recovery");
}

TEST(Parse, SaysWhatIsAllowedForAValueOfTheWrongKind) {
  const Diagnostic fault = fault_of("num_nodes: \"3\"\n");
  EXPECT_EQ(fault.message, "num_nodes must be an integer, not \"3\"");
  EXPECT_EQ(fault.hint, "write 3 without quotes");
  EXPECT_EQ(fault_of("resources: {use_spot: \"yes\"}\n").hint, "write true without quotes");
}

TEST(Parse, CollectsSeveralFaults) {
  const TaskSet set = parse("run: 5\nnmae: x\nresources: {cpu: 4}\n", {});
  EXPECT_THAT(set.errors, SizeIs(3));
  EXPECT_THAT(set.tasks, IsEmpty());
}

TEST(Parse, NeverShowsTheValueOfASecret) {
  const TaskSet set = parse("secrets: hunter2\n", {});
  ASSERT_FALSE(set.ok());
  EXPECT_EQ(set.errors[0].message.find("hunter2"), std::string::npos) << set.errors[0].message;
}

TEST(Parse, BoundsTheNumberOfSecrets) {
  const auto task = [](int count) {
    std::string text = "run: x\nsecrets:\n";
    for (int i = 0; i < count; ++i) {
      text += "  S" + std::to_string(i) + ": v\n";
    }
    return text;
  };
  EXPECT_TRUE(parse(task(256), {}).ok());
  const TaskSet set = parse(task(257), {});
  ASSERT_FALSE(set.ok());
  EXPECT_EQ(set.errors[0].key, "secrets");
  EXPECT_EQ(set.errors[0].line, 3);
  EXPECT_NE(set.errors[0].message.find("at most 256 secrets, and this one has 257"),
            std::string::npos);
  Overrides overrides;
  for (int i = 0; i < 2; ++i) {
    overrides.secrets.emplace_back("MORE" + std::to_string(i), "v");
  }
  EXPECT_FALSE(parse(task(255), overrides).ok());
}

TEST(Parse, TurnsValuesOfEnvsIntoTextAsPythonDoes) {
  const Task task = task_of("envs: {A: 1, B: 2.50, C: yes, D: [1], E: 010}\n");
  EXPECT_THAT(task.envs,
              ElementsAre(NamedValue("A", "1"), NamedValue("B", "2.5"), NamedValue("C", "True"),
                          NamedValue("D", "[1]"), NamedValue("E", "8")));
}

TEST(Parse, NeedsAValueForEveryVariable) {
  EXPECT_EQ(fault_of("envs:\n  TOKEN:\n").key, "envs.TOKEN");
  Overrides overrides;
  overrides.envs = {{"TOKEN", "x"}, {"MORE", "y"}};
  EXPECT_THAT(task_of("envs:\n  TOKEN:\n", overrides).envs,
              ElementsAre(NamedValue("TOKEN", "x"), NamedValue("MORE", "y")));
}

TEST(Variables, WithWhichLinuxStartsNoProgramAreToldAtTheirPlace) {
  const std::string most((128U << 10U) - 3, 'x');  // "A=" and the end of the string
  EXPECT_TRUE(parse("envs:\n  A: " + most + "\nrun: x\n", {}).ok());
  const Diagnostic one = fault_of("envs:\n  B: 1\n  A: x" + most + "\nrun: x\n");
  EXPECT_EQ(one.key, "envs.A");
  EXPECT_EQ(one.line, 3);
  EXPECT_THAT(one.message, HasSubstr("131073 bytes"));
  EXPECT_EQ(fault_of("secrets: {A: x" + most + "}\nrun: x\n").key, "secrets.A");
  Overrides overrides;
  overrides.envs = {{"A", "x" + most}};
  const Diagnostic given = fault_of("envs: {A: 1}\nrun: x\n", overrides);
  EXPECT_EQ(given.key, "envs.A");
  EXPECT_EQ(given.line, 0);
  std::string many = "envs:\n";
  for (int i = 0; i < 19; ++i) {
    many += fmt::format("  A{}: {}\n", i, std::string(100'000, 'x'));
  }
  EXPECT_EQ(fault_of(many + "run: x\n").key, "envs");
}

TEST(Variables, WithAReferenceThatIsMeantForAShellAreWarnedOf) {
  const auto warned = [](std::string_view envs) {
    const TaskSet set = parse(fmt::format("envs: {{{}}}\nrun: x\n", envs), {});
    return !set.ok() ? "refused: " + set.errors[0].message
           : set.warnings.empty()
               ? ""
               : set.warnings[0].message.substr(0, set.warnings[0].message.find(" in it"));
  };
  EXPECT_EQ(warned("PATH: '/x:$PATH'"), "$PATH");
  EXPECT_EQ(warned("A: '${HOME}/x'"), "${HOME}");
  EXPECT_EQ(warned("A: '${home}'"), "${home}");
  EXPECT_EQ(warned("MY_PATH: '$here'"), "$here");
  EXPECT_EQ(warned("b: 1, A: '$b'"), "$b");
  for (const char* fine : {"A: 'costs $5'", "A: 'pa$word'", "A: '$'", "A: '${'", "A: '${}'",
                           "A: '$$'", "A: '${HOME'", "A: 'a$ HOME'"}) {
    EXPECT_EQ(warned(fine), "");
  }
  EXPECT_THAT(parse("secrets: {A: 'x$PATH'}\nrun: x\n", {}).warnings, IsEmpty());
}

TEST(Parse, KeepsASecretWithoutAValueAsAManagedOne) {
  const Task task = task_of("secrets: {A: x, B: null, 'secrets:personal.C': null}\n");
  ASSERT_THAT(task.secrets, SizeIs(3));
  EXPECT_EQ(task.secrets[0].value, "x");
  EXPECT_EQ(task.secrets[1].value, std::nullopt);
  EXPECT_EQ(task.secrets[2].name, "C");
  EXPECT_EQ(task.secrets[2].scope, "personal");
  EXPECT_EQ(to_text(*to_json(task, Redact::kYes).if_contains("secrets")), R"({"A":"<redacted>"})");
}

TEST(Parse, FillsVariablesIntoMountsWorkdirVolumesAndService) {
  const Task task = task_of(
      "envs: {A: x, B: 5}\n"
      "workdir: $A/${B}/$C\n"
      "file_mounts: {\"/m/$A\": \"s3://b-${A}\"}\n"
      "service: {readiness_probe: {path: /$A}}\n"
      "run: echo $A\n");
  EXPECT_EQ(std::get<LocalWorkdir>(task.workdir).path, "x/5/$C");
  ASSERT_THAT(task.file_mounts, SizeIs(1));
  EXPECT_EQ(task.file_mounts[0].destination, "/m/x");
  EXPECT_EQ(task.file_mounts[0].source, "s3://b-x");
  EXPECT_EQ(task.file_mounts[0].kind, FileMount::Kind::kBucket);
  EXPECT_EQ(task.service->readiness_path, "/x");
  EXPECT_EQ(task.run, "echo $A");
}

TEST(Parse, FillsAValueWithQuotesAsItIs) {
  EXPECT_EQ(std::get<LocalWorkdir>(task_of("envs: {A: 'x\"y\\z'}\nworkdir: $A\n").workdir).path,
            "x\"y\\z");
}

TEST(Resources, ReadsQuantitiesWithTheirUnits) {
  const Resources r = task_of(
                          "resources: {cpus: 4.5+, memory: 512MB, accelerators: V100:0.5,"
                          " disk_size: 1TB, ports: [8080, '10-20', 8081]}\n")
                          .resources[0];
  EXPECT_EQ(r.cpus->milli, 4500);
  EXPECT_TRUE(r.cpus->at_least);
  EXPECT_EQ(r.memory->bytes, 512LL << 20U);
  EXPECT_EQ(r.memory->text, "0.5");
  EXPECT_EQ(r.accelerator->name, "V100");
  EXPECT_EQ(r.accelerator->milli, 500);
  EXPECT_EQ(r.disk_gigabytes, 1024);
  ASSERT_THAT(r.ports, SizeIs(2));
  EXPECT_EQ(r.ports[0].first, 10);
  EXPECT_EQ(r.ports[1].last, 8081);
}

TEST(Resources, KeepsTheOrderOfTheFileForAlternatives) {
  const Task any = task_of("resources: {accelerators: {H100: 8, A100: 4}}\n");
  EXPECT_EQ(any.choice, Choice::kAnyOf);
  EXPECT_EQ(any.resources[0].accelerator->name, "H100");
  const Task ordered = task_of("resources: {accelerators: ['A100:8', 'V100:8']}\n");
  EXPECT_EQ(ordered.choice, Choice::kOrdered);
  EXPECT_EQ(ordered.resources[1].accelerator->name, "V100");
}

TEST(Resources, MergesOuterKeysIntoCandidatesWithoutMixingThem) {
  const Task task = task_of(
      "resources:\n  cpus: 4\n  labels: {a: b}\n  any_of:\n"
      "  - {infra: aws, labels: {c: d}}\n  - {infra: k8s, cpus: 8}\n");
  ASSERT_THAT(task.resources, SizeIs(2));
  EXPECT_EQ(task.resources[0].cpus->milli, 4000);
  EXPECT_THAT(task.resources[0].labels, ElementsAre(NamedValue("a", "b"), NamedValue("c", "d")));
  EXPECT_THAT(task.resources[1].labels, ElementsAre(NamedValue("a", "b")));
  EXPECT_EQ(task.resources[1].cpus->milli, 8000);
  EXPECT_EQ(task.resources[1].infra(), "kubernetes");
}

TEST(Resources, ReadsPlaces) {
  EXPECT_EQ(task_of("resources: {infra: k8s/a/b}\n").resources[0].region, "a/b");
  EXPECT_EQ(task_of("resources: {infra: Slurm/c/p}\n").resources[0].zone, "p");
  EXPECT_EQ(task_of("resources: {infra: '*/*/z'}\n").resources[0].infra(), "*/*/z");
  EXPECT_TRUE(task_of("resources: {infra: Local}\n").resources[0].on_local());
  EXPECT_EQ(task_of("resources: {infra: local}\n").resources[0].infra(), "local");
  EXPECT_EQ(fault_of("resources: {infra: local/x}\n").key, "resources.infra");
  EXPECT_EQ(fault_of("resources: {infra: nowhere}\n").key, "resources.infra");
  EXPECT_EQ(fault_of("resources: {infra: aws, region: r}\n").key, "resources.region");
}

TEST(Resources, FindsModelsByMemory) {
  const Task task = task_of("resources: {accelerators: 'nvidia:141GB+:2'}\n");
  ASSERT_FALSE(task.resources.empty());
  EXPECT_EQ(task.resources[0].accelerator->name, "H200");
  EXPECT_EQ(task.resources[0].accelerator->milli, 2000);
}

TEST(Resources, ReadsRecovery) {
  const Task task = task_of(
      "resources: {job_recovery: {strategy: failover, "
      "max_restarts_on_errors: 3, recover_on_exit_codes: [33, 34]}}\n");
  EXPECT_EQ(task.job_recovery().strategy, "FAILOVER");
  EXPECT_EQ(task.job_recovery().max_restarts_on_errors, 3);
  EXPECT_THAT(task.job_recovery().recover_on_exit_codes, ElementsAre(33, 34));
}

TEST(Parse, PrintsWhatSkyPilotPrints) {
  EXPECT_EQ(json_of("resources: {infra: k8s, image_id: img, autostop: 2h, disk_size: 256}\n"),
            R"({"resources":{"infra":"kubernetes","image_id":{"null":"docker:img"},)"
            R"("autostop":{"idle_minutes":120,"down":false}},"num_nodes":1,)"
            R"("file_mounts":{},"volumes":{}})");
}

TEST(Parse, ReadsAPipelineWithItsHeader) {
  const TaskSet set = parse("name: p\nexecution: serial\n---\nname: a\nrun: x\n---\nrun: y\n", {});
  ASSERT_TRUE(set.ok());
  EXPECT_EQ(set.dag_name, "p");
  EXPECT_EQ(set.execution, TaskSet::Execution::kSerial);
  EXPECT_THAT(set.tasks, SizeIs(2));
}

TEST(Parse, ReadsAJobGroup) {
  const TaskSet set = parse(
      "name: g\nexecution: parallel\nprimary_tasks: [a]\ntermination_delay: {b: 1m}\nodd: 1\n"
      "---\nname: a\n---\nname: b\n",
      {});
  ASSERT_TRUE(set.ok()) << set.errors[0].message;
  EXPECT_EQ(set.execution, TaskSet::Execution::kParallel);
  EXPECT_THAT(set.primary_tasks, ElementsAre("a"));
  EXPECT_THAT(set.termination_delays, ElementsAre(NamedValue("b", "1m")));
  EXPECT_THAT(set.warnings, SizeIs(1));
  EXPECT_EQ(
      fault_of("name: g\nexecution: parallel\nprimary_tasks: [trainr]\n---\nname: trainer\n").hint,
      "trainer");
}

TEST(Parse, RefusesAFileWithoutATask) {
  for (const char* text : {"", "# nothing\n", "~\n", "{}\n", "- a\n", "hello\n", "name: x\n---\n",
                           "name: x\nexecution: parallel\n---\n"}) {
    EXPECT_FALSE(parse(text, {}).ok()) << text;
  }
}

TEST(Parse, AcceptsTheOldNameOfConfigWithAWarning) {
  const TaskSet set = parse("experimental: {config_overrides: {docker: {run_options: x}}}\n", {});
  ASSERT_TRUE(set.ok());
  EXPECT_THAT(set.warnings, SizeIs(1));
  EXPECT_EQ(to_text(json::value(set.tasks[0].config)), R"({"docker":{"run_options":"x"}})");
  EXPECT_FALSE(parse("experimental: {other: 1}\n", {}).ok());
}

TEST(Overrides, ReplaceTheFileAndEveryCandidate) {
  Overrides overrides;
  overrides.cpus = "16+";
  overrides.gpus = "H100:2";
  overrides.infra = "k8s";
  overrides.num_nodes = 3;
  overrides.priority = 7;
  overrides.use_spot = true;
  overrides.name = "n";
  overrides.config = {{"kubernetes.provision_timeout", "5"}};
  const Task task =
      task_of("resources: {gpus: A100, any_of: [{cpus: 2, cloud: aws}, {accelerators: V100}]}\n",
              overrides);
  ASSERT_THAT(task.resources, SizeIs(2));
  for (const Resources& r : task.resources) {
    EXPECT_EQ(r.cpus->text, "16+");
    EXPECT_EQ(r.accelerator->name, "H100");
    EXPECT_EQ(r.infra(), "kubernetes");
    EXPECT_EQ(r.use_spot, true);
  }
  EXPECT_EQ(task.priority(), 7);
  EXPECT_EQ(task.num_nodes, 3);
  EXPECT_EQ(task.name, "n");
  EXPECT_EQ(to_text(json::value(task.config)), R"({"kubernetes":{"provision_timeout":5}})");
  EXPECT_EQ(fault_of("run: x\n",
                     [] {
                       Overrides wrong;
                       wrong.cpus = "many";
                       return wrong;
                     }())
                .key,
            "resources.cpus");
}

TEST(FromCommand, MakesATaskThatRunsIt) {
  Overrides overrides;
  overrides.gpus = "H100:8";
  const TaskSet set = from_command("python train.py", overrides);
  ASSERT_TRUE(set.ok());
  EXPECT_EQ(set.tasks[0].run, "python train.py");
  EXPECT_EQ(set.tasks[0].resources[0].accelerator->milli, 8000);
}

TEST(LaunchErrors, AreWhatValidationLetsPass) {
  const Task task = task_of("name: a b\nvolumes: {rel: v}\nfile_mounts: {/data/: s3://b}\n");
  const auto errors = launch_errors(task);
  ASSERT_THAT(errors, SizeIs(3));
  EXPECT_EQ(errors[0].key, "name");
  EXPECT_EQ(errors[1].key, "file_mounts./data/");
  EXPECT_EQ(errors[2].key, "volumes.rel");
}

TEST(LaunchErrors, AnAddressThatGitMayNotFetchFromIsRefused) {
  for (const char* url : {"fd::17", "'ext::sh -c id'", "foo://h/x"}) {
    const auto errors = launch_errors(task_of(fmt::format("workdir: {{url: {}}}\n", url)));
    ASSERT_THAT(errors, SizeIs(1)) << url;
    EXPECT_EQ(errors[0].key, "workdir.url");
    EXPECT_EQ(errors[0].line, 1U);
  }
  EXPECT_THAT(launch_errors(task_of("workdir: {url: 'git@h:a/b'}\n")), SizeIs(0));
  EXPECT_THAT(launch_errors(task_of("file_mounts: {/x: 'git+foo://h/x'}\n")), SizeIs(1));
}

TEST(FileMounts, TellSourcesApart) {
  EXPECT_EQ(kind_of_source("./data"), FileMount::Kind::kLocal);
  EXPECT_EQ(kind_of_source("https://x.org/a.tar"), FileMount::Kind::kHttp);
  EXPECT_EQ(kind_of_source("https://x.org/a.git"), FileMount::Kind::kGit);
  EXPECT_EQ(kind_of_source("git@x.org:a/b"), FileMount::Kind::kGit);
  EXPECT_EQ(kind_of_source("gs://b/c"), FileMount::Kind::kBucket);
}

TEST(FileMounts, ReadStorageObjects) {
  const Task task =
      task_of("file_mounts: {/d: {source: s3://b, mode: mount_cached, type: dataset_ro}}\n");
  ASSERT_THAT(task.file_mounts, SizeIs(1));
  EXPECT_EQ(task.file_mounts[0].storage->mode, "MOUNT_CACHED");
  EXPECT_EQ(task.resources[0].requires_fuse, true);
  EXPECT_EQ(fault_of("file_mounts: {/d: {name: x, type: dataset_ro}}\n").key,
            "file_mounts./d.type");
}

TEST(QuadBlock, IsReadWhole) {
  const Task task = task_of(
      "run: x\nquad:\n  kind: session\n  checkpoint: {path: ckpt, interval: 30m, keep: 3, "
      "framework: marker, marker: DONE}\n  max_duration: 12h\n  queue: q\n  preemptible: true\n"
      "  exclude_nodes: [n1]\n  fence: strict\n  depends_on: [17, prep]\n  array: 0-9\n"
      "  notify: [mail]\n  stop_grace: 90s\n  stop_signal_to: all\n");
  ASSERT_TRUE(task.quad);
  const QuadBlock& q = *task.quad;
  EXPECT_EQ(q.kind, JobKind::kSession);
  EXPECT_EQ(q.checkpoint->interval, std::chrono::minutes(30));
  EXPECT_EQ(q.checkpoint->keep, 3);
  EXPECT_EQ(q.checkpoint->marker, "DONE");
  EXPECT_EQ(q.max_duration, std::chrono::hours(12));
  EXPECT_EQ(q.fence, Fence::kStrict);
  EXPECT_THAT(q.depends_on, ElementsAre("17", "prep"));
  EXPECT_EQ(q.array->last, 9);
  EXPECT_EQ(q.stop_grace, std::chrono::seconds(90));
  EXPECT_TRUE(q.stop_signal_to_all);
  EXPECT_TRUE(to_json(task).contains("quad"));
}

TEST(QuadBlock, HasDefaults) {
  const Task task = task_of("quad: {queue: q}\n");
  EXPECT_EQ(task.quad->kind, JobKind::kBatch);
  EXPECT_EQ(task.quad->stop_grace, std::chrono::seconds(30));
  EXPECT_FALSE(task.quad->stop_signal_to_all);
  EXPECT_EQ(task.quad->checkpoint, std::nullopt);
}

TEST(QuadBlock, RefusesWhatItDoesNotKnow) {
  EXPECT_EQ(fault_of("quad: {max_duratoin: 2h}\n").hint, "max_duration");
  EXPECT_EQ(fault_of("quad: {max_duration: 90}\n").key, "quad.max_duration");
  EXPECT_EQ(fault_of("quad: {kind: sesion}\n").hint, "session");
  EXPECT_EQ(fault_of("quad: {checkpoint: {keep: 0}}\n").key, "quad.checkpoint.keep");
  EXPECT_EQ(fault_of("quad: {checkpoint: {framework: marker}}\n").key, "quad.checkpoint.marker");
  EXPECT_EQ(fault_of("quad: {array: 9-0}\n").key, "quad.array");
  EXPECT_EQ(fault_of("quad: {fence: tight}\n").key, "quad.fence");
}

TEST(TaskSetJson, HasTheFieldsOfValidate) {
  const json::object out = to_json(parse("num_nodes: x\n", {}), "a.yaml");
  EXPECT_EQ(out.at("path").as_string(), "a.yaml");
  EXPECT_FALSE(out.at("ok").as_bool());
  const json::object& error = out.at("errors").as_array()[0].as_object();
  EXPECT_EQ(error.at("key").as_string(), "num_nodes");
  EXPECT_EQ(error.at("line").as_int64(), 1);
  EXPECT_EQ(error.at("column").as_int64(), 12);
}

TEST(EnvFile, ReadsWhatPythonDotenvReads) {
  const auto values = parse_env_file(
      "# comment\nA=1\nexport B = two words # note\nC='single ${A}'\nD=\"line\\nbreak\"\n"
      "E=${A}-${NONE:-dflt}-${NONE}\nF=\nG=#b\nH=\"multi\nline\"\n");
  ASSERT_TRUE(values.ok()) << values.error().message;
  EXPECT_THAT(*values, ElementsAre(NamedValue("A", "1"), NamedValue("B", "two words"),
                                   NamedValue("C", "single 1"), NamedValue("D", "line\nbreak"),
                                   NamedValue("E", "1-dflt-"), NamedValue("F", ""),
                                   NamedValue("G", "#b"), NamedValue("H", "multi\nline")));
}

TEST(EnvFile, LooksVariablesUpOutside) {
  const auto values = parse_env_file("A=${HOME}/x\n", [](std::string_view name) {
    return name == "HOME" ? std::optional<std::string>("/h") : std::nullopt;
  });
  ASSERT_TRUE(values.ok());
  EXPECT_EQ(values.value()[0].second, "/h/x");
}

TEST(EnvFile, NamesTheLineOfAFault) {
  const auto values = parse_env_file("A=1\nB\n");
  ASSERT_FALSE(values.ok());
  EXPECT_THAT(values.error().message, HasSubstr("line 2"));
  EXPECT_FALSE(parse_env_file("A='x\n").ok());
}

}  // namespace
}  // namespace quad::spec
