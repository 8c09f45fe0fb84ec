// The runner's smaller parts: start.json, addresses, scripts, progress, places, /proc.

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "runner/cgroup.h"
#include "runner/endpoint.h"
#include "runner/http_get.h"
#include "runner/mounts.h"
#include "runner/process_table.h"
#include "runner/progress.h"
#include "runner/result_file.h"
#include "runner/script.h"
#include "runner/start.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

TEST(StartFile, IsReadWhole) {
  const auto start = parse_start(
      R"({"server":"https://h:7","ca":"/c","token":"t","job":17,"epoch":2,"rank":1,"node":"n",
          "address":"10.0.0.1","gpus":[0,3],"gpu_env":"CUDA_VISIBLE_DEVICES","cpu_milli":4000,
          "memory_bytes":16000000000,"hot":"/hot","cpus":[0,3],"limits":{"spool_bytes":1000},
          "termination_message":"/dev/termination-log"})");
  ASSERT_TRUE(start.ok()) << start.error().message;
  EXPECT_EQ(to_string(start.value().key), "17-2-1");
  EXPECT_EQ(start.value().gpus, (std::vector<std::int32_t>{0, 3}));
  EXPECT_EQ(start.value().memory_bytes, 16'000'000'000);
  EXPECT_EQ(start.value().spool_bytes, 1000U);
  EXPECT_EQ(start.value().cpus, (std::vector<int>{0, 3}));
  EXPECT_EQ(start.value().termination_message, "/dev/termination-log");
}

TEST(StartFile, NamesWhatIsMissing) {
  const auto start = parse_start(R"({"job":1,"epoch":1,"rank":0})");
  ASSERT_FALSE(start.ok());
  EXPECT_NE(start.error().message.find("server"), std::string::npos);
}

TEST(Endpoint, UnderstandsEachForm) {
  EXPECT_EQ(parse_endpoint("unix:/run/quad.sock").value().unix_path, "/run/quad.sock");
  const auto v6 = parse_endpoint("http://[fd00::1]:8080/x");
  EXPECT_EQ(v6.value().host, "fd00::1");
  EXPECT_EQ(v6.value().port, "8080");
  EXPECT_EQ(v6.value().authority(), "[fd00::1]:8080");
  const auto plain = parse_endpoint("https://quad.example");
  EXPECT_TRUE(plain.value().tls);
  EXPECT_EQ(plain.value().port, "443");
  EXPECT_EQ(plain.value().authority(), "quad.example");
  for (const char* bad : {"", "quad:80", "ftp://h", "http://", "http://h:0", "http://h:99999",
                          "http://h:8x", "unix:"}) {
    EXPECT_FALSE(parse_endpoint(bad).ok()) << bad;
  }
}

TEST(Endpoint, KnowsThisMachineWithoutAHostsFile) {
  const auto hosts = resolve("localhost");
  ASSERT_TRUE(hosts.ok()) << hosts.error().message;
  EXPECT_NE(std::find(hosts.value().begin(), hosts.value().end(), "127.0.0.1"),
            hosts.value().end());
}

TEST(HttpGet, SplitsAUrl) {
  const auto request = request_for("https://host:444/a/b?c=d#e");
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(request.value().server, "https://host:444");
  EXPECT_EQ(request.value().target, "/a/b?c=d");
  EXPECT_EQ(request_for("http://host").value().target, "/");
  EXPECT_FALSE(request_for("http://host/a b").ok());
}

TEST(Script, ExportsAreQuotedAndSetupHidesTheGpus) {
  const std::string script =
      make_script(ScriptKind::kSetup, {{"A", "it's $HOME\nx"}, {"bad;name", "x"}}, "echo hi");
  EXPECT_NE(script.find("export A='it'\"'\"'s $HOME\nx'\n"), std::string::npos);
  EXPECT_EQ(script.find("bad;name"), std::string::npos);
  EXPECT_NE(script.find("unset CUDA_VISIBLE_DEVICES\n"), std::string::npos);
  EXPECT_LT(script.find("export PYTHONUNBUFFERED=1\n"), script.find("cd ~/sky_workdir\n"));
  EXPECT_LT(script.find("cd ~/sky_workdir\n"), script.find("export A="));
  EXPECT_TRUE(script.ends_with("echo hi\n"));
  EXPECT_EQ(make_script(ScriptKind::kRun, {}, "x").find("unset CUDA"), std::string::npos);
}

TEST(Progress, TakesNumbersAndLeavesTheRest) {
  const auto progress = parse_progress(
      R"({"step": 12, "total": 100, "loss": 0.5, "note": "NaN", "lr": NaN, "x": -Infinity, "metrics": {"acc": 1}})");
  ASSERT_TRUE(progress.has_value());
  EXPECT_EQ(progress->step, 12);
  EXPECT_EQ(progress->total, 100);
  EXPECT_EQ(progress->metrics, (std::vector<Metric>{{"loss", 0.5}, {"acc", 1.0}}));
  for (const char* nothing :
       {"", "hello", "[1]", "{", "{}", R"({"step": "x"})", R"({"a": "NaN})"}) {
    EXPECT_FALSE(parse_progress(nothing).has_value()) << nothing;
  }
}

TEST(Progress, TheNewestWholeLineWinsAndAReplacedFileIsReadAnew) {
  const fs::path path = fs::temp_directory_path() / ("quad-progress-" + random_hex(6));
  ProgressTail tail(path);
  EXPECT_FALSE(tail.poll().has_value());
  std::ofstream(path) << "{\"step\": 1}\n{\"step\": 2}\nnonsense\n{\"step\": 3";
  EXPECT_EQ(tail.poll()->step, 2);
  EXPECT_FALSE(tail.poll().has_value());
  std::ofstream(path, std::ios::app) << "0}\n";
  EXPECT_EQ(tail.poll()->step, 30);
  std::ofstream(path, std::ios::app) << std::string(200'000, 'x');
  EXPECT_FALSE(tail.poll().has_value());
  std::ofstream(path, std::ios::app) << "\n{\"step\": 40}\n";
  EXPECT_EQ(tail.poll()->step, 40);
  std::ofstream(path) << "{\"step\": 1}\n";
  EXPECT_EQ(tail.poll()->step, 1);
  fs::remove(path);
}

TEST(Places, AreInHomeInTheWorkdirOrWhereTheySay) {
  EXPECT_EQ(place_of("~/data/", "/h").value(), "/h/data");
  EXPECT_EQ(place_of("~/sky_workdir", "/h").value(), "/h/sky_workdir");
  EXPECT_EQ(place_of("sub/x", "/h").value(), "/h/sky_workdir/sub/x");
  EXPECT_EQ(place_of("/data", "/h").value(), "/data");
  EXPECT_EQ(place_of("~/./a//b/", "/h").value(), "/h/a/b");
  EXPECT_EQ(place_of("~", "/h").value(), "/h");
  EXPECT_EQ(place_of(".", "/h").value(), "/h/sky_workdir");
  EXPECT_FALSE(place_of("~/../x", "/h").ok());
  EXPECT_FALSE(place_of("/a/../../etc", "/h").ok());
}

TEST(Places, OuterOnesComeBeforeThoseInsideThemWhateverTheOrder) {
  const auto mount = [](const char* dst) {
    Mount one;
    one.dst = dst;
    return one;
  };
  std::vector<std::string> order;
  for (const Mount& one : outer_first({mount("~/a/x"), mount("~/sky_workdir"), mount("/h/a/x/y"),
                                       mount("sub"), mount("~/a"), mount("~"), mount("/z")},
                                      "/h")) {
    order.push_back(one.dst);
  }
  EXPECT_EQ(order, (std::vector<std::string>{"~", "/z", "~/sky_workdir", "~/a", "~/a/x", "sub",
                                             "/h/a/x/y"}));
}

TEST(ProcessTable, ReadsANameWithBracketsAndSpaces) {
  ProcessFacts facts;
  ASSERT_TRUE(
      parse_stat("42 (a ) b) S 7 42 42 0 -1 0 0 0 0 0 10 20 30 40 20 0 1 0 99 1000 555 0", facts));
  EXPECT_EQ(facts.pid, 42);
  EXPECT_EQ(facts.parent, 7);
  EXPECT_EQ(facts.state, 'S');
  EXPECT_EQ(facts.cpu_ticks, 100U);
  EXPECT_EQ(facts.rss_pages, 555U);
  EXPECT_FALSE(parse_stat("garbage", facts));
}

TEST(ProcessTable, FindsAGrandchild) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const pid_t grandchild = ::fork();
    if (grandchild != 0) {
      (void)!::write(ends[1], &grandchild, sizeof grandchild);
    }
    ::pause();
    ::_exit(0);
  }
  pid_t grandchild = 0;
  ASSERT_EQ(::read(ends[0], &grandchild, sizeof grandchild), sizeof grandchild);
  const auto found = descendants_of(::getpid());
  EXPECT_TRUE(std::any_of(found.begin(), found.end(),
                          [&](const ProcessFacts& facts) { return facts.pid == grandchild; }));
  ::kill(grandchild, SIGKILL);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST(ResultFile, IsReadAsItWasWritten) {
  const fs::path folder = fs::temp_directory_path() / ("quad-result-" + random_hex(6));
  fs::create_directories(folder);
  EXPECT_FALSE(read_result(folder).has_value());
  RankResult result;
  result.how = "signaled";
  result.code = 11;
  result.detail = "killed by signal 11";
  result.log_end = 12345;
  ASSERT_TRUE(write_result(folder, result).ok());
  const auto read = read_result(folder);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->how, "signaled");
  EXPECT_EQ(read->code, 11);
  EXPECT_EQ(read->log_end, 12345U);
  fs::remove_all(folder);
}

TEST(TerminationMessage, IsTheResultInAtMostWhatKubernetesKeeps) {
  RankResult result;
  result.how = "signaled";
  result.code = 11;
  result.detail = "killed by signal 11";
  EXPECT_EQ(termination_message(result), to_text(to_json(result)));
  for (const std::string_view part : {"x", "ä", "…", "\x1b", "\"\\", "\xff", "😀"}) {
    result.detail.clear();
    while (result.detail.size() < 20'000) {
      result.detail += part;
    }
    const std::string text = termination_message(result);
    EXPECT_LE(text.size(), kTerminationMessageBytes);
    EXPECT_GT(text.size(), kTerminationMessageBytes - 20);  // and not much is lost
    EXPECT_EQ(text, valid_utf8(text));
    const auto read = parse_json_object(text);
    ASSERT_TRUE(read.ok()) << part;
    EXPECT_EQ(result_from(*read).code, 11);
    EXPECT_TRUE(result_from(*read).detail.ends_with("…"));
  }
}

TEST(TerminationMessage, ReplacesWhatIsInTheFileAndMakesNone) {
  const fs::path folder = fs::temp_directory_path() / ("quad-message-" + random_hex(6));
  fs::create_directories(folder);
  RankResult result;
  result.code = 3;
  EXPECT_FALSE(write_termination_message(folder / "none", result).ok());
  EXPECT_FALSE(fs::exists(folder / "none"));

  std::ofstream(folder / "message") << std::string(5000, 'x');
  ASSERT_TRUE(write_termination_message(folder / "message", result).ok());
  EXPECT_EQ(read_file(folder / "message").value(), to_text(to_json(result)));

  // What user code may have put in its place neither holds the runner up nor leads it elsewhere.
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0666), 0);
  EXPECT_FALSE(write_termination_message(folder / "pipe", result).ok());
  fs::create_symlink(folder / "message", folder / "link");
  EXPECT_FALSE(write_termination_message(folder / "link", result).ok());
  fs::remove_all(folder);
}

TEST(OutOfMemory, SaysHowMuchInFittingUnits) {
  EXPECT_EQ(out_of_memory_text(64ULL << 30U, 64ULL << 30U), "killed: memory 64.0 of 64.0 GiB");
  EXPECT_EQ(out_of_memory_text(100ULL << 20U, 128ULL << 20U), "killed: memory 100.0 of 128.0 MiB");
}

}  // namespace
}  // namespace quad::runner
