// net/proxy.h
//
// HTTP proxies: whether the environment names one for an address (by the rules of Go's programs,
// kubectl among them), and the CONNECT with which a connection is made through it. Only http://
// proxies are spoken to.

#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace quad::net {

/// Looks up an environment variable; nothing if it is not set.
using Environment = std::function<std::optional<std::string>(std::string_view)>;
/// This process's own. Not while another thread changes it.
[[nodiscard]] Environment process_environment();

/// The proxy that HTTPS_PROXY or HTTP_PROXY (or their lower-case forms) and NO_PROXY give for a
/// server's URL; empty for none, which is always so for this machine itself.
[[nodiscard]] std::string proxy_from_environment(std::string_view url,
                                                 const Environment& environment);

/// A proxy's address, taken apart.
struct ProxyAddress {
  std::string url;            ///< http://host:port, to connect to
  std::string authorization;  ///< the value of Proxy-Authorization; empty for none
};
/// kUnsupported for https:// and socks5:// proxies, kInvalid for what is no address. A bare
/// host:port is taken for http://.
Result<ProxyAddress> parse_proxy(std::string_view url);

}  // namespace quad::net
