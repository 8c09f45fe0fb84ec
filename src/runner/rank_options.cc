#include "runner/rank_options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"

namespace quad::runner {
namespace {

std::vector<std::string> own_environment() {
  std::vector<std::string> entries;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    entries.emplace_back(*entry);
  }
  return entries;
}

// An image may have no /tmp, or one that cannot be written to; what needs one (bash itself, for a
// long here-document) would fail in odd ways.
void give_temporary_folder(std::vector<std::string>& environment,
                           const std::filesystem::path& folder) {
  const bool said =
      std::any_of(environment.begin(), environment.end(),
                  [](const std::string& entry) { return entry.starts_with("TMPDIR="); });
  if (!said && ::access("/tmp", W_OK | X_OK) != 0 && make_folders(folder / "tmp", 0700).ok()) {
    environment.push_back(fmt::format("TMPDIR={}", (folder / "tmp").string()));
  }
}

std::vector<std::string> environment_of_processes(const Start& start, const Order& order,
                                                  const Places& places) {
  std::vector<std::string> environment =
      process_environment(own_environment(), start, order, places);
  give_temporary_folder(environment, places.folder);
  return environment;
}

}  // namespace

std::filesystem::path setup_script_of(const Places& places) {
  return places.folder / "setup.sh";
}

std::filesystem::path run_script_of(const Places& places) {
  return places.folder / "run.sh";
}

RankOptions rank_options(const Start& start, const Order& order, const Places& places,
                         const ControlGroups& groups) {
  RankOptions options;
  options.marks = {fmt::format("{}={}", kRankKeyVariable, to_string(start.key)),
                   fmt::format("{}={}/", kRankFolderVariable, places.folder.string())};
  options.cpus = start.cpus;
  options.init.groups = groups.folders();
  options.init.processes = groups.limit_processes() ? 0 : start.processes;
  options.init.uid = ::geteuid();
  options.init.gid = ::getegid();
  options.init.environment = environment_of_processes(start, order, places);
  options.init.setup_script = setup_script_of(places).string();
  options.init.run_script = run_script_of(places).string();
  options.init.home = places.home.string();
  options.init.stop_signal_to_all = order.stop_signal_to_all;
  if (!start.namespaces) {
    options.isolation = Isolation::kSubreaper;
  }
  return options;
}

RemoteSessionOrder remote_session_order(const Start& start, const Order& order, const Go* go,
                                        const Places& places, std::string_view id,
                                        std::string_view kind) {
  RemoteSessionOrder session;
  session.server = start.server;
  session.ca = start.ca;
  session.token = start.token;
  session.target =
      fmt::format("/v1/runner/session?job={}&epoch={}&rank={}&id={}", start.key.job.value(),
                  start.key.epoch.value(), start.key.rank.value(), id);
  session.kind = kind;
  session.home = places.home.string();
  std::vector<Variable> exports =
      go != nullptr ? run_exports(start, order, *go, places) : setup_exports(start, order, places);
  exports.push_back({"PYTHONUNBUFFERED", "1"});
  std::set<std::string_view> exported;
  for (const Variable& variable : exports) {
    exported.insert(variable.name);
    session.environment.push_back(fmt::format("{}={}", variable.name, variable.value));
  }
  for (std::string& entry : environment_of_processes(start, order, places)) {
    if (!exported.contains(std::string_view(entry).substr(0, entry.find('=')))) {
      session.environment.push_back(std::move(entry));
    }
  }
  return session;
}

}  // namespace quad::runner
