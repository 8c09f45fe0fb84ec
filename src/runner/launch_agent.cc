#include "runner/launch_agent.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <utility>

#include "base/file.h"
#include "base/json.h"
#include "base/time.h"
#include "runner/own_file.h"
#include "runner/session_carrier.h"
#include "session/exec_client.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

constexpr int kCannot = 255;
constexpr Millis kAnswer{30'000};

int cannot(std::string_view why) {
  std::fprintf(stderr, "quad-runner rsh: %.*s\n", static_cast<int>(why.size()), why.data());
  return kCannot;
}

bool is_plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '-' || c == '_' || c == ':';
}

// Launchers know ssh's options; none of them means anything here. 0: no option.
std::size_t words_of_option(std::string_view word) {
  constexpr std::string_view kWithValue = "-l-o-p-i-F-e";
  if (!word.starts_with('-')) {
    return 0;
  }
  return word.size() == 2 && kWithValue.find(word) != std::string_view::npos ? 2 : 1;
}

/// The sentence in the server's answer: "the server answered 404: {json}".
std::string sentence_of(const std::string& trouble) {
  const std::size_t begin = trouble.find('{');
  if (begin != std::string::npos) {
    if (const auto answer = parse_json_object(std::string_view(trouble).substr(begin));
        answer.ok()) {
      if (const auto* inner = get_object(*answer, "error")) {
        return std::string(get_string(*inner, "message", trouble));
      }
    }
  }
  return trouble;
}

}  // namespace

std::string own_program() {
  std::error_code failure;
  return fs::read_symlink("/proc/self/exe", failure).string();
}

std::string hostfile_text(const Start& start, const Order& order, const Go& go) {
  const std::int64_t cpus = std::max<std::int64_t>(start.cpu_milli / 1000, 1);
  const std::int64_t slots = order.num_gpus > 0 ? order.num_gpus : cpus;
  std::string text;
  for (const std::string& address : go.ips.empty() ? order.ips : go.ips) {
    text += fmt::format("{} slots={}\n", address, slots);
  }
  return text;
}

void leave_hostfile(const Start& start, const Order& order, const Go& go, const Places& places) {
  const auto file = create_own_file(places.hostfile(), 0644);
  if (file.ok()) {
    (void)write_all(file->get(), hostfile_text(start, order, go));
  }
}

int run_launch_agent(const std::vector<std::string>& arguments) {
  std::size_t at = 0;
  while (at < arguments.size() && words_of_option(arguments[at]) > 0) {
    at += words_of_option(arguments[at]);
  }
  if (at + 1 >= arguments.size()) {
    return cannot("write `quad-runner rsh HOST COMMAND…`");
  }
  std::string host = arguments[at];
  host.erase(0, host.find('@') + 1);
  if (host.empty() || !std::all_of(host.begin(), host.end(), is_plain)) {
    return cannot(fmt::format("'{}' is no name or address of a rank", host));
  }
  std::string command;
  for (++at; at < arguments.size(); ++at) {
    command += (command.empty() ? "" : " ") + arguments[at];
  }
  const char* folder = std::getenv("QUAD_RANK_FOLDER");
  if (folder == nullptr) {
    return cannot("it works inside of a rank only (there is no QUAD_RANK_FOLDER)");
  }
  const auto start = read_start(folder);
  if (!start.ok()) {
    return cannot(start.error().message);
  }
  auto endpoint = parse_endpoint(start->server);
  if (!endpoint.ok()) {
    return cannot(endpoint.error().message);
  }
  ::signal(SIGPIPE, SIG_IGN);
  ConnectionOptions options;
  options.endpoint = std::move(endpoint).value();
  options.ca = start->ca;
  options.token = start->token;
  options.target =
      fmt::format("/v1/runner/reach?job={}&epoch={}&rank={}&host={}", start->key.job.value(),
                  start->key.epoch.value(), start->key.rank.value(), host);
  options.protocol = session::kUpgradeProtocol;
  options.frames = session::kFrames;
  options.once = true;
  const SystemClock clock;
  SessionCarrier carrier(std::move(options), clock);
  if (const Status opened = carrier.open(kAnswer); !opened.ok()) {
    return cannot(
        fmt::format("{} cannot be reached: {}", host, sentence_of(opened.error().message)));
  }
  // Daemons of one mpirun on one machine, as on pretend nodes, would spoil each other's files in
  // the folder that Open MPI names after the machine.
  session::ExecOptions exec;
  exec.begin = {{"kind", "exec"},
                {"command", fmt::format("export OMPI_MCA_orte_tmpdir_base=\"${}\"; {}",
                                        kRankFolderVariable, command)}};
  const auto code = session::run_exec(carrier, std::move(exec));
  return code.ok() ? *code : cannot(fmt::format("{}: {}", host, code.error().message));
}

}  // namespace quad::runner
