// The real quad-runner against a server that the test plays: output, messages and reports over a
// connection that breaks or stalls.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>

#include "runner/fake_server.h"
#include "runner/process_table.h"
#include "runner/result_file.h"
#include "runner/session_fixture.h"

namespace quad::runner::testing {
namespace {

namespace fs = std::filesystem;

TEST_F(Ranks, AReconnectLosesAndDoublesNoByte) {
  FakeServer server(socket());
  server.order = order("for i in {1..60000}; do echo line $i; done");
  RunnerProcess runner(folder(), socket(), {});
  int cut_short = 0;  // drops before the end was known, each of which a new connection must follow
  for (int drops = 0; drops < 6; ++drops) {
    const std::size_t until_bytes = server.output.size() + 50'000;
    ASSERT_TRUE(
        server.until([&] { return server.output.size() >= until_bytes || server.exited(); }));
    cut_short += server.exited() ? 0 : 1;
    server.drop();
  }
  ASSERT_TRUE(server.until([&] { return runner.ended(); }, 30));
  EXPECT_GE(cut_short, 1);
  std::string expected;
  for (int i = 1; i <= 60000; ++i) {
    expected += fmt::format("line {}\n", i);
  }
  EXPECT_TRUE(server.output == expected);
  EXPECT_GT(server.connections, cut_short);
  EXPECT_EQ(server.nonces.size(), 1U);
  EXPECT_EQ(server.faults, std::vector<std::string>());
}

TEST_F(Ranks, MessagesThatWereNotAcknowledgedComeAgainInOrder) {
  FakeServer server(socket());
  server.order = order("echo up; sleep 0.3; exit 4");
  server.acknowledge_messages = false;
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return server.output == "up\n"; }));
  server.drop();
  ASSERT_TRUE(server.until([&] { return server.exited(); }));
  EXPECT_EQ(server.faults, std::vector<std::string>());
  EXPECT_EQ(get_string(server.hellos.back(), "phase"), "running");
  EXPECT_EQ(get_int(*server.find("exited"), "code"), 4);
}

TEST_F(Ranks, ASilentServerStopsNothing) {
  FakeServer server(socket());
  server.order = order("for i in 1 2 3; do echo $i; sleep 0.2; done; exit 6");
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return server.output == "1\n"; }));
  server.answer = 503;
  server.drop();
  ASSERT_TRUE(server.until([&] { return read_result(folder()).has_value(); }));
  server.answer = 101;
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(server.output, "1\n2\n3\n");
  EXPECT_EQ(get_int(*server.find("exited"), "code"), 6);
}

TEST_F(Ranks, AServerThatReadsNothingDoesNotHoldUpTheRankAndGetsTheNewestLines) {
  FakeServer server(socket());
  RunnerProcess::Options options;
  options.spool_bytes = 16U << 20U;
  server.order = order("seq 1 8000000; touch ~/finished");  // 63 MB
  server.acknowledge_output = false;
  RunnerProcess runner(folder(), socket(), options);
  ASSERT_TRUE(server.until([&] { return server.output.size() > 100; }));
  server.reading = false;
  ASSERT_TRUE(server.until([&] { return read_result(folder()).has_value(); }, 30));
  EXPECT_TRUE(fs::exists(folder() / "home/finished"));
  server.reading = true;
  server.acknowledge_output = true;
  ASSERT_TRUE(server.until([&] { return runner.ended(); }, 30));
  EXPECT_EQ(server.faults, std::vector<std::string>());
  ASSERT_NE(server.find("gap"), nullptr);
  EXPECT_TRUE(server.output.ends_with("\n7999999\n8000000\n"));
  const std::size_t resumed = server.output.rfind('~');
  ASSERT_NE(resumed, std::string::npos);
  // What follows the gap begins with a whole line, and counts on from there.
  std::size_t at = resumed + 1;
  long number = std::stol(server.output.substr(at));
  bool counts = true;
  for (; at < server.output.size() && counts; ++number) {
    const std::string line = std::to_string(number) + "\n";
    counts = server.output.compare(at, line.size(), line) == 0;
    at += line.size();
  }
  EXPECT_TRUE(counts);
}

TEST_F(Ranks, TwoHundredMegabytesArriveWhole) {
  FakeServer server(socket());
  server.order = order("head -c 200000000 /dev/zero | tr '\\0' 'x'");
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }, 60));
  EXPECT_EQ(server.output.size(), 200'000'000U);
  EXPECT_EQ(server.output.find_first_not_of('x'), std::string::npos);
  EXPECT_EQ(server.faults, std::vector<std::string>());
}

TEST_F(Ranks, ARankThatHasEndedWaitsForItsServerWithoutUsingTheProcessor) {
  FakeServer server(socket());
  server.order = order("true");
  (*server.order)["checkpoint"] =
      json::object{{"job_dir", (root_ / "hot/17").string()}, {"lease_ms", 30'000}};
  server.say_bye = false;
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return server.exited(); }));
  server.answer = 503;
  server.drop();
  const auto ticks = [&]() -> std::optional<std::uint64_t> {
    for (const ProcessFacts& process : all_processes()) {
      if (process.pid == runner.pid()) {
        return process.cpu_ticks;
      }
    }
    return std::nullopt;
  };
  // A second after the order the fence would be read first, if the rank had not ended. Then two
  // more.
  (void)server.until([] { return false; }, 1.2);
  const auto before = ticks();
  (void)server.until([] { return false; }, 2);
  const auto after = ticks();
  ASSERT_TRUE(before && after);
  EXPECT_LT(*after - *before, 20U);  // of 200
}

TEST_F(Ranks, ProgressIsToldWithTheNewestLine) {
  FakeServer server(socket());
  server.order = order(
      "echo '{\"step\": 1}' >> $QUAD_PROGRESS\n"
      "echo '{\"step\": 7, \"total\": 10, \"loss\": NaN, \"metrics\": {\"acc\": 0.5}}' >> "
      "$QUAD_PROGRESS");
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  const json::object* progress = server.find("progress");
  ASSERT_NE(progress, nullptr);
  EXPECT_EQ(get_int(*progress, "step"), 7);
  EXPECT_EQ(get_int(*progress, "total"), 10);
  EXPECT_EQ(get_double(*get_object(*progress, "metrics"), "acc"), 0.5);
  EXPECT_FALSE(get_object(*progress, "metrics")->contains("loss"));
}

TEST_F(Ranks, HeartbeatsTellMemoryAndProcessorTime) {
  FakeServer server(socket());
  server.order = order("while :; do :; done");
  RunnerProcess runner(folder(), socket(), {});
  EXPECT_TRUE(server.until([&] {
    return std::any_of(server.messages.begin(), server.messages.end(), [](const auto& message) {
      return get_string(message, "type") == "heartbeat" &&
             get_int(message, "rss_bytes") > 100'000 &&
             get_double(message, "cpu_percent") > 0.5;  // the machine may be busy
    });
  }));
}

}  // namespace
}  // namespace quad::runner::testing
