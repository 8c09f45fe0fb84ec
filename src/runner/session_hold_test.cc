// The real quad-runner as the holder of a cluster's node, against a server that the test plays:
// what it does with tasks, whose runners find no way to that server and wait.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <string>

#include "base/file.h"
#include "runner/fake_server.h"
#include "runner/process_table.h"
#include "runner/session_fixture.h"

namespace quad::runner::testing {
namespace {

namespace fs = std::filesystem;

class Holding : public Ranks {
 protected:
  Holding() : server_(socket()) {
    json::object hold = order("");
    hold["hold"] = true;
    server_.order = std::move(hold);
  }

  /// The server plays for one runner only: others do not find its socket until it is back.
  void hide_server() { fs::rename(socket(), root_ / "hidden.sock"); }
  void show_server() { fs::rename(root_ / "hidden.sock", socket()); }

  static json::object about(std::string_view type, std::int64_t job) {
    return {{"type", type}, {"job", job}, {"epoch", 1}, {"rank", 0}};
  }
  void start_task(std::int64_t job) {
    json::object message = about("start_task", job);
    message["token"] = "t-" + marker_;
    message["node"] = "dev:0@17.1";
    server_.send(message);
  }
  [[nodiscard]] fs::path task(std::int64_t job) const {
    return folder() / "tasks" / fmt::format("{}-1-0", job);
  }
  /// Its runner's, as it says itself; 0 before.
  [[nodiscard]] pid_t pid_of(std::int64_t job) const {
    const auto text = read_file(task(job) / "runner.pid", 100);
    return text.ok() ? std::atoi(text->c_str()) : 0;
  }
  [[nodiscard]] std::size_t ends() const {
    std::size_t count = 0;
    for (const json::object& message : server_.messages) {
      count += get_string(message, "type") == "task_ended" ? 1 : 0;
    }
    return count;
  }
  [[nodiscard]] static bool lives(pid_t pid) {
    for (const ProcessFacts& process : all_processes()) {
      if (process.pid == pid) {
        return process.state != 'Z';
      }
    }
    return false;
  }

  FakeServer server_;
};

TEST_F(Holding, StaysUntilItIsToldToStop) {
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server_.until([&] { return server_.has_phase("running"); }));
  EXPECT_EQ(get_array(server_.hellos[0], "tasks"), nullptr) << "it knows nothing of holding yet";
  server_.send({{"type", "stop"}, {"grace_ms", 5000}, {"reason", "the cluster goes down"}});
  ASSERT_TRUE(server_.until([&] { return server_.exited() && runner.ended(); }));
  const json::object& exited = *server_.find("exited");
  EXPECT_TRUE(get_bool(exited, "by_quad"));
  EXPECT_EQ(get_string(exited, "how"), "signaled");
  EXPECT_EQ(get_string(exited, "detail"), "the cluster goes down");
  EXPECT_EQ(server_.faults, std::vector<std::string>());
}

TEST_F(Holding, StartsKillsAndForgetsTasks) {
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server_.until([&] { return server_.has_phase("running"); }));
  hide_server();
  start_task(7);
  start_task(7);  // once more is none
  ASSERT_TRUE(server_.until([&] { return pid_of(7) != 0; }));
  const pid_t first = pid_of(7);
  EXPECT_TRUE(lives(first));
  server_.send(about("kill_task", 7));
  ASSERT_TRUE(server_.until([&] { return ends() == 1; }));
  const json::object& ended = *server_.find("task_ended");
  EXPECT_EQ(get_int(ended, "job"), 7);
  EXPECT_EQ(get_object(ended, "result"), nullptr);
  EXPECT_EQ(get_string(ended, "detail"), "its runner was killed by SIGKILL");
  EXPECT_FALSE(lives(first));
  server_.send(about("kill_task", 8));  // always answered
  ASSERT_TRUE(server_.until([&] { return ends() == 2; }));

  // Its hello says what there is.
  show_server();
  server_.drop();
  ASSERT_TRUE(
      server_.until([&] { return server_.hellos.size() == 2 && !server_.hellos[1].empty(); }));
  const json::array* tasks = get_array(server_.hellos[1], "tasks");
  ASSERT_NE(tasks, nullptr);
  ASSERT_EQ(tasks->size(), 1U);
  EXPECT_EQ(get_int((*tasks)[0].as_object(), "job"), 7);
  EXPECT_FALSE(get_bool((*tasks)[0].as_object(), "alive", true));
  server_.send(about("forget_task", 7));
  ASSERT_TRUE(server_.until([&] { return !fs::exists(task(7)); }));
}

TEST_F(Holding, TasksEndWithIt) {
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server_.until([&] { return server_.has_phase("running"); }));
  hide_server();
  start_task(7);
  start_task(8);
  ASSERT_TRUE(server_.until([&] { return pid_of(7) != 0 && pid_of(8) != 0; }));
  const pid_t first = pid_of(7);
  const pid_t second = pid_of(8);
  runner.signal(SIGKILL);
  ASSERT_TRUE(server_.until([&] { return !lives(first) && !lives(second); }));
}

TEST_F(Holding, AStopEndsTasksBeforeItsOwnEndIsTold) {
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server_.until([&] { return server_.has_phase("running"); }));
  hide_server();
  start_task(7);
  ASSERT_TRUE(server_.until([&] { return pid_of(7) != 0; }));
  const pid_t pid = pid_of(7);
  server_.send({{"type", "stop"}, {"grace_ms", 0}, {"reason", "rank 1 ended"}});
  ASSERT_TRUE(server_.until([&] { return server_.exited(); }));
  EXPECT_FALSE(lives(pid));
  EXPECT_EQ(get_string(*server_.find("task_ended"), "detail"),
            "its cluster's node ended: rank 1 ended");
  EXPECT_EQ(get_string(server_.messages.back(), "type"), "exited");
}

}  // namespace
}  // namespace quad::runner::testing
