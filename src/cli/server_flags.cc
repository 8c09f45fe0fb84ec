#include "cli/server_flags.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "cli/task_input.h"

namespace quad::cli {

namespace {

spec::Node number_of(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) {
    return spec::Node::make_int(static_cast<std::int64_t>(value));
  }
  spec::Node node;
  node.kind = spec::Node::Kind::kFloat;
  node.number = value;
  return node;
}

}  // namespace

ServerFlags::ServerFlags(CLI::App& verb) {
  verb.add_option("--config", file_,
                  "The server's configuration (QUAD_CONFIG, config.yaml in the data directory)");
  add(verb, Kind::kText, "--listen,--host", "listen",
      "Address to listen on; beyond loopback only with TLS");
  add(verb, Kind::kInteger, "--port", "port", "Port; 0 takes a free one")
      ->check(CLI::Range(0, 65535));
  add(verb, Kind::kText, "--url", "url",
      "Where people and pods reach the server, if that is another address");
  add(verb, Kind::kText, "--tls-cert", "tls.certificate", "PEM file of the certificate chain")
      ->check(CLI::ExistingFile);
  add(verb, Kind::kText, "--tls-key", "tls.key", "PEM file of its key")->check(CLI::ExistingFile);
  add(verb, Kind::kText, "--tls-ca", "tls.ca",
      "PEM file of the authority that signed it, for runners over TCP")
      ->check(CLI::ExistingFile);
  add(verb, Kind::kYes, "--runners-over-tcp", "runners_over_tcp",
      "Runners connect to the address listened on, not to the unix socket");
  add(verb, Kind::kInteger, "--nodes", "engines.local.nodes",
      "Divide this machine into so many pretend nodes")
      ->check(CLI::Range(0, 1000));
  add(verb, Kind::kText, "--gpus", "engines.local.gpus",
      "GPUs of each pretend node, such as H100:8");
  add(verb, Kind::kNumber, "--cpus", "engines.local.cpus", "CPUs of each pretend node")
      ->check(CLI::PositiveNumber);
  add(verb, Kind::kNumber, "--memory", "engines.local.memory", "Memory of each pretend node in GB")
      ->check(CLI::PositiveNumber);
  add(verb, Kind::kSeconds, "--node-lost-after", "node_lost_after",
      "Seconds of silence until a node counts as lost")
      ->check(CLI::Range(1.0, 86400.0));
  add(verb, Kind::kSeconds, "--strict-lease", "strict_lease",
      "Seconds without server and fence until a rank of a job with 'fence: strict' stops itself")
      ->check(CLI::Range(3.0, 3600.0));
  add(verb, Kind::kNumber, "--spool-gb", "spool",
      "Output in GB that each rank keeps while the server is away; beyond it the oldest goes")
      ->check(CLI::Range(0.001, 1e6));
}

CLI::Option* ServerFlags::add(CLI::App& verb, Kind kind, const char* spelling, const char* key,
                              const char* help) {
  Flag& flag = flags_.emplace_back();
  flag.key = key;
  flag.kind = kind;
  flag.option = kind == Kind::kYes ? verb.add_flag(spelling, flag.yes, help)
                                   : verb.add_option(spelling, flag.text, help);
  return flag.option;
}

config::Source ServerFlags::source(const Globals& globals) const {
  return config::find_source(file_, data_dir_of(globals));
}

std::vector<config::Override> ServerFlags::given() const {
  std::vector<config::Override> all;
  for (const Flag& flag : flags_) {
    if (flag.option->count() == 0) {
      continue;
    }
    config::Override one{flag.key, {}, "--" + flag.option->get_lnames().front()};
    const double number = std::strtod(flag.text.c_str(), nullptr);
    switch (flag.kind) {
      case Kind::kText:
        one.value = spec::Node::make_string(flag.text);
        break;
      case Kind::kInteger:
      case Kind::kNumber:
        one.value = number_of(number);
        break;
      case Kind::kSeconds:
        one.value = number == std::floor(number)
                        ? spec::Node::make_string(fmt::format("{:.0f}s", number))
                        : number_of(number);
        break;
      case Kind::kYes:
        one.value = spec::Node::make_bool(flag.yes);
        break;
    }
    all.push_back(std::move(one));
  }
  return all;
}

void print_faults(const config::Loaded& loaded, const config::Source& source) {
  for (const spec::Diagnostic& one : loaded.errors) {
    fmt::print(stderr, "{}\n", line_of(one, "error", source.path.string()));
  }
  for (const spec::Diagnostic& one : loaded.warnings) {
    fmt::print(stderr, "{}\n", line_of(one, "warning", source.path.string()));
  }
}

}  // namespace quad::cli
