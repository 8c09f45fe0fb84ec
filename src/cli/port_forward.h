// cli/port_forward.h
//
// `quad port-forward`: listens on ports of this machine, and carries each connection to a port of a
// rank, all over one session. Runs until it is interrupted, or the session ends.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/client.h"

namespace quad::cli {

struct ForwardOptions {
  std::string job;  ///< a number, or a cluster's name
  std::int64_t rank = 0;
  std::vector<std::string> ports;
  std::string address = "127.0.0.1";
};

struct PortPair {
  int local = 0;  ///< 0: any free one
  int remote = 0;
};
/// "8888", "8080:80", "0:80". Pure.
std::optional<PortPair> parse_port_pair(std::string_view text);

/// The exit code.
int forward_ports(const Globals& globals, const ForwardOptions& options);

}  // namespace quad::cli
