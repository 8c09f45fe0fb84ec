// server/server.h
//
// `quad serve`: opens the data directory, starts the engine, control and the HTTP server, and runs
// until it is told to stop. Runners live on when it ends, however it ends; the next server on the
// same directory finds them again.

#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/result.h"

namespace quad::server {

struct ServeOptions {
  std::filesystem::path data_dir;
  std::filesystem::path runner;      ///< the quad-runner program
  std::string listen = "127.0.0.1";  ///< beyond loopback only with TLS
  int port = -1;                     ///< -1: as last time, else any free one; 0: any free one
  std::string tls_certificate;       ///< PEM; with tls_key, HTTPS
  std::string tls_key;
  /// PEM; the authority that signed it, for runners over TCP; empty: the machine's own.
  std::string tls_ca;
  bool runners_over_tcp =
      false;             ///< runners use the address that is listened on, not the unix socket
  int nodes = 0;         ///< pretend nodes; 0: this machine as it is
  std::string gpus;      ///< of each pretend node, such as H100:8
  double cpus = 0;       ///< of each pretend node; 0: as the machine
  double memory_gb = 0;  ///< of each pretend node; 0: as the machine
  double node_lost_after = 20;  ///< seconds of silence on both channels
  double strict_lease =
      30;  ///< seconds out of touch after which ranks with a strict fence stop themselves
  double spool_gb = 1;  ///< of output that each runner keeps while the server is away
  bool quiet = false;
};

/// Where a running server can be found: <data_dir>/server.json.
struct Endpoint {
  std::string url;
  std::string socket;  ///< path of its unix socket
  int pid = 0;
};
/// kNotFound if none was ever started there. Whether it still runs is for the caller to try.
Result<Endpoint> read_endpoint(const std::filesystem::path& data_dir);

/// Blocks until SIGTERM or SIGINT. The error says what to change.
Status serve(const ServeOptions& options);

}  // namespace quad::server
