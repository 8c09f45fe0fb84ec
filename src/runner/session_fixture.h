// runner/session_fixture.h
//
// For tests of whole runners: a folder for one and its server, an order for one rank, and a mark by
// which the processes that a test started are found on this machine.

#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <string_view>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "runner/fake_server.h"
#include "runner/process_table.h"

namespace quad::runner::testing {

class Ranks : public ::testing::Test {
 protected:
  Ranks() : root_(std::filesystem::temp_directory_path() / ("quad-runner-" + random_hex(6))) {
    std::filesystem::create_directories(root_);
    std::filesystem::permissions(root_, std::filesystem::perms::all);
    marker_ = "marker-" + random_hex(8);
  }
  ~Ranks() override {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }

  std::filesystem::path socket() const { return root_ / "quad.sock"; }
  std::filesystem::path folder() const { return root_ / "17-1-0"; }

  json::object order(std::string_view run, std::string_view setup = "") const {
    return {{"type", "order"},
            {"num_ranks", 1},
            {"ips", {"127.0.0.1"}},
            {"task_id", "sky-managed-x_17-0"},
            {"user", "ana"},
            {"name", "train"},
            {"cluster_info", {{"cluster_name", "lab"}}},
            {"num_gpus", 0},
            {"setup", setup},
            {"run", run},
            {"envs", {json::array{"PLAIN", "it's"}}},
            {"secrets", {json::array{"SECRET", "s3cr3t-" + marker_}}},
            {"workdir", nullptr},
            {"mounts", json::array()},
            {"stop_grace_ms", 5000}};
  }

  // Processes anywhere on this machine whose arguments hold the test's marker.
  std::size_t marked() const {
    std::size_t count = 0;
    for (const ProcessFacts& process : all_processes()) {
      const auto text = read_file(fmt::format("/proc/{}/cmdline", process.pid));  // it may be gone
      const bool here = text.ok() && text.value().find(marker_) != std::string::npos;
      count += process.state != 'Z' && here ? 1 : 0;
    }
    return count;
  }

  std::filesystem::path root_;
  std::string marker_;
};

}  // namespace quad::runner::testing
