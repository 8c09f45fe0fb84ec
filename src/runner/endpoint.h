// runner/endpoint.h
//
// Where something is: a unix socket or host and port, with or without TLS; and how a name becomes
// addresses. A static program has no resolver of glibc's, so names go through c-ares (hosts file,
// then DNS).

#pragma once

#include <sys/socket.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/result.h"

namespace quad::runner {

struct Endpoint {
  bool tls = false;
  std::string unix_path;  ///< set: a unix socket; the rest is empty
  std::string host;       ///< without brackets
  std::string port;
  /// For the Host header.
  [[nodiscard]] std::string authority() const;
};

/// "unix:/path", "http://host[:port]", "https://host[:port]"; what follows the authority is
/// ignored. Pure.
Result<Endpoint> parse_endpoint(std::string_view url);

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;
};

/// The addresses of an endpoint that needs no look-up: a unix socket or a numeric host; else none.
/// Pure.
std::vector<Address> numeric_addresses(const Endpoint& endpoint);

/// A numeric address with a port; nullopt if `ip` is none. Pure.
std::vector<Address> numeric_address(std::string_view ip, std::string_view port);

/// The numeric hosts of a name, in order of preference. Blocks for seconds: for workers.
Result<std::vector<std::string>> resolve(const std::string& host);

/// A non-blocking socket on its way to `address`, with keep-alive set so that a dead peer is
/// noticed within 20 s.
Result<UniqueFd> begin_connect(const Address& address);

}  // namespace quad::runner
