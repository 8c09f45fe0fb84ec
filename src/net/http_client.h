// net/http_client.h
//
// A small blocking HTTP/1.1 client over one keep-alive connection, for the command line and for
// tools: it connects on first use, reconnects when the server has closed an idle connection, and
// starts in well under a millisecond. OpenSSL is touched only for https. One thread at a time; a
// Cancel in its options is how another thread ends a call at once.
//
// Addresses: http://host[:port][/prefix], https://host[:port][/prefix], unix:/path/of/socket. https
// verifies the certificate chain and the host's name. Redirects are not followed.
//
// Errors: kUnavailable if the server cannot be reached or the connection breaks, kTimeout, kInvalid
// for an address that cannot be meant, kDenied for a certificate that does not verify. A response
// of any status is a success here; turn it into an Error with ClientResponse::to_error().

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/time.h"
#include "net/cancel.h"
#include "net/message.h"

namespace quad::net {

struct ClientOptions {
  std::string url;
  std::string peer = "Quad server";  ///< what messages call the other side
  std::string ca_file;               ///< PEM; the system's authorities if empty
  std::string ca_pem;                ///< the authorities themselves as PEM, instead of a file
  std::string certificate_pem;       ///< the client's own, with its chain, as PEM; none if empty
  std::string key_pem;               ///< its key
  std::string tls_server_name;       ///< what the certificate is for, if not the URL's host
  bool verify_certificate = true;
  std::string proxy;  ///< http://[user:password@]host:port: connect through it; none if empty
  /// Ends from another thread whatever the client waits for; its calls then fail with kUnavailable.
  /// With it, a name is resolved on a thread of its own, which may outlive the call.
  std::shared_ptr<Cancel> cancel;
  Headers headers;  ///< sent with every request: Authorization, User-Agent, …
  Millis connect_timeout{5'000};
  Millis read_timeout{60'000};  ///< without a byte, while a response is awaited or read
  std::uint64_t body_limit = 256ULL
                             << 20U;  ///< of a response body that is collected; kExhausted beyond
};

struct ClientResponse {
  int status = 0;
  Headers headers;
  std::string body;

  [[nodiscard]] bool ok() const { return status >= 200 && status < 300; }
  /// The first header of that name, in any case.
  [[nodiscard]] std::optional<std::string_view> header(std::string_view name) const;
  /// What the server said went wrong; for a status that is not ok().
  [[nodiscard]] Error to_error() const { return error_of_response(status, body); }
};

/// Is shown the head of a 2xx response as soon as it has come, before any of its body.
using HeadSink = std::function<void(const ClientResponse&)>;

/// Takes a piece of a response body; false ends the reading, which costs the connection.
using ChunkSink = std::function<bool(std::string_view)>;

/// A connection after a successful upgrade. One thread may read while another writes, except over
/// TLS.
class ClientStream {
 public:
  virtual ~ClientStream() = default;
  /// Waits for bytes, at most `timeout` (0: without end); 0 bytes is the end of the stream.
  /// kTimeout.
  virtual Result<std::size_t> read_some(std::span<char> into, Millis timeout) = 0;
  virtual Status write(std::string_view bytes) = 0;
  /// Sends as much as goes without waiting; 0 is not now.
  virtual Result<std::size_t> write_some(std::string_view bytes) = 0;
  /// For poll(): readable means that read_some may have something. Bytes already held are not seen
  /// by poll, so read until kTimeout first, or when `buffered()`.
  [[nodiscard]] virtual int fd() const = 0;
  [[nodiscard]] virtual bool buffered() const = 0;
};

struct UpgradeResult {
  ClientResponse response;  ///< status 101 if `stream` is there, else the server's refusal
  std::unique_ptr<ClientStream> stream;  ///< null if refused
};

class HttpClient {
 public:
  /// Checks the address; connects to nothing yet.
  static Result<HttpClient> create(ClientOptions options);
  HttpClient(HttpClient&&) noexcept;
  HttpClient& operator=(HttpClient&&) noexcept;
  ~HttpClient();

  /// Sends a request and collects the response. A body with no Content-Type among `headers` is sent
  /// as JSON.
  Result<ClientResponse> request(std::string_view method, std::string_view target,
                                 std::string_view body = {}, const Headers& headers = {});
  Result<ClientResponse> get(std::string_view target) { return request("GET", target); }
  Result<ClientResponse> post(std::string_view target, std::string_view body) {
    return request("POST", target, body);
  }

  /// Sends a request and gives each piece of a 2xx body to `sink` as it comes; the body of another
  /// status is collected in the response instead. `read_timeout` bounds each wait for a piece; 0
  /// waits without end. With `on_head`, the head is awaited as in request().
  Result<ClientResponse> stream(std::string_view method, std::string_view target,
                                const ChunkSink& sink, Millis read_timeout,
                                std::string_view body = {}, const Headers& headers = {},
                                const HeadSink& on_head = {});

  /// Sends an open file, from its present offset to its end, as the body. An answer that comes
  /// before the whole is sent (401, 413, …) ends the sending. `read_timeout`: for the answer, if
  /// another one than usual.
  Result<ClientResponse> upload(std::string_view method, std::string_view target, int file,
                                const Headers& headers = {},
                                std::optional<Millis> read_timeout = {});

  /// Asks for an upgrade to `protocol`. The connection leaves the client; the next request makes a
  /// new one.
  Result<UpgradeResult> upgrade(std::string_view target, std::string_view protocol,
                                const Headers& headers = {});

  /// The address, for messages.
  [[nodiscard]] const std::string& url() const;

 private:
  struct State;
  explicit HttpClient(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quad::net
