// server/server.h
//
// `quad serve`: opens the data directory, starts the engine, control and the HTTP server, and runs
// until it is told to stop. Runners live on when it ends, however it ends; the next server on the
// same directory finds them again.

#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"
#include "config/config.h"

namespace quad::server {

struct ServeOptions {
  std::filesystem::path data_dir;
  std::filesystem::path runner;  ///< the quad-runner program
  config::Config config;         ///< without errors
  bool quiet = false;
  bool accept_lost_records = false;  ///< starts although records are missing (store/provenance.h)
};

/// Where a running server can be found: <data_dir>/server.json.
struct Endpoint {
  std::string url;
  std::string socket;  ///< path of its unix socket
  int pid = 0;
  std::string public_url;  ///< where others find it
  std::string ca;          ///< file of the authority of its own that signed its certificate
};
/// kNotFound if none was ever started there. Whether it still runs is for the caller to try.
Result<Endpoint> read_endpoint(const std::filesystem::path& data_dir);

/// Blocks until SIGTERM or SIGINT. The error says what to change.
Status serve(const ServeOptions& options);

}  // namespace quad::server
