#include "runner/rank_options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

namespace quad::runner {
namespace {

std::vector<std::string> own_environment() {
  std::vector<std::string> entries;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    entries.emplace_back(*entry);
  }
  return entries;
}

}  // namespace

std::filesystem::path setup_script_of(const Places& places) {
  return places.folder / "setup.sh";
}

std::filesystem::path run_script_of(const Places& places) {
  return places.folder / "run.sh";
}

RankOptions rank_options(const Start& start, const Order& order, const Places& places) {
  RankOptions options;
  options.name = to_string(start.key);
  options.marks = {fmt::format("{}={}", kRankKeyVariable, options.name),
                   fmt::format("{}={}/", kRankFolderVariable, places.folder.string())};
  options.memory_bytes = static_cast<std::uint64_t>(std::max<std::int64_t>(0, start.memory_bytes));
  options.cpus = start.cpus;
  options.init.uid = ::geteuid();
  options.init.gid = ::getegid();
  options.init.environment = process_environment(own_environment(), start, order, places);
  options.init.setup_script = setup_script_of(places).string();
  options.init.run_script = run_script_of(places).string();
  options.init.home = places.home.string();
  if (!start.namespaces) {
    options.isolation = Isolation::kSubreaper;
  }
  return options;
}

}  // namespace quad::runner
