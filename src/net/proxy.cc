#include "net/proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "base/base64.h"
#include "base/text.h"
#include "net/client_wire.h"
#include "net/message.h"

namespace quad::net {

namespace {

/// An IPv4 or IPv6 address as 16 bytes, IPv4 mapped.
std::optional<std::array<unsigned char, 16>> number_of(const std::string& text) {
  std::array<unsigned char, 16> bytes{};
  in_addr four{};
  if (inet_pton(AF_INET, text.c_str(), &four) == 1) {
    bytes[10] = bytes[11] = 0xFF;
    std::memcpy(&bytes[12], &four, sizeof four);
    return bytes;
  }
  if (inet_pton(AF_INET6, text.c_str(), bytes.data()) == 1) {
    return bytes;
  }
  return std::nullopt;
}

bool in_network(const std::string& host, std::string_view network) {
  const auto slash = network.find('/');
  const auto base = number_of(std::string(network.substr(0, slash)));
  const auto number = number_of(host);
  unsigned bits = 0;
  const auto digits = network.substr(slash + 1);
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), bits);
  if (!base || !number || parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size()) {
    return false;
  }
  if (network.substr(0, slash).find(':') == std::string_view::npos) {
    bits += 96;
  }
  for (unsigned bit = 0; bit < bits && bit < 128; ++bit) {
    const unsigned mask = 0x80U >> (bit % 8);
    if (((*base)[bit / 8] & mask) != ((*number)[bit / 8] & mask)) {
      return false;
    }
  }
  return true;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return out;
}

/// Whether one entry of NO_PROXY covers the server.
bool covers(std::string_view entry, const ServerAddress& server) {
  if (entry == "*") {
    return true;
  }
  const auto host = lower(server.host);
  if (entry.find('/') != std::string_view::npos) {
    return in_network(host, entry);
  }
  auto pattern = lower(entry);
  const auto colon = pattern.rfind(':');
  const bool numeric = number_of(pattern).has_value();
  if (!numeric && colon != std::string::npos) {
    if (pattern.substr(colon + 1) != std::to_string(server.port)) {
      return false;
    }
    pattern.resize(colon);
    if (pattern.starts_with('[') && pattern.ends_with(']')) {
      pattern = pattern.substr(1, pattern.size() - 2);
    }
  }
  if (const auto number = number_of(pattern)) {
    return number == number_of(host);
  }
  if (pattern.starts_with("*.")) {
    pattern.erase(0, 1);
  }
  if (pattern.empty()) {
    return false;
  }
  return pattern.starts_with('.') ? host.ends_with(pattern)
                                  : host == pattern || host.ends_with("." + pattern);
}

bool is_this_machine(const std::string& host) {
  if (host == "localhost") {
    return true;
  }
  return in_network(host, "127.0.0.0/8") || host == "::1";
}

}  // namespace

Environment process_environment() {
  return [](std::string_view name) -> std::optional<std::string> {
    const char* value = std::getenv(std::string(name).c_str());  // NOLINT(concurrency-mt-unsafe)
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
}

std::string proxy_from_environment(std::string_view url, const Environment& environment) {
  const auto server = parse_address(url);
  if (!server.ok() || server->scheme == ServerAddress::Scheme::kUnix ||
      is_this_machine(lower(server->host))) {
    return {};
  }
  const auto either = [&](std::string_view name) {
    auto value = environment(name);
    return value.has_value() && !value->empty() ? *value
                                                : environment(lower(name)).value_or(std::string());
  };
  const bool https = server->scheme == ServerAddress::Scheme::kHttps;
  auto proxy = either(https ? "HTTPS_PROXY" : "HTTP_PROXY");
  if (proxy.empty()) {
    return {};
  }
  const auto exceptions = either("NO_PROXY");
  for (const auto entry : split(exceptions, ',')) {
    if (covers(trim(entry), *server)) {
      return {};
    }
  }
  return proxy;
}

Result<ProxyAddress> parse_proxy(std::string_view url) {
  std::string text(url);
  if (text.find("://") == std::string::npos) {
    text.insert(0, "http://");
  }
  if (!equal_ignoring_case(text.substr(0, 7), "http://")) {
    return error(ErrorCode::kUnsupported,
                 "'" + text.substr(0, text.find("://")) +
                     "' proxies are not supported; write http://host:port.");
  }
  ProxyAddress proxy;
  const auto end = std::min(text.find('/', 7), text.size());
  if (const auto at = text.rfind('@', end); at != std::string::npos && at > 7) {
    const auto user = percent_decode(text.substr(7, at - 7));
    if (!user.has_value()) {
      return error(ErrorCode::kInvalid,
                   "The proxy's user and password have a broken percent escape.");
    }
    proxy.authorization = "Basic " + base64_encode(*user);
    text.erase(7, at + 1 - 7);
  }
  proxy.url = text;
  const auto address = parse_address(proxy.url);
  if (!address.ok()) {
    return error(ErrorCode::kInvalid,
                 "'" + proxy.url + "' is not a proxy's address; write http://host:port.");
  }
  return proxy;
}

}  // namespace quad::net
