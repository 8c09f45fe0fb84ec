// net/message.h
//
// What one HTTP exchange is made of: the request as a handler sees it, the response that it gives,
// and how Quad's errors travel over HTTP (both ways, so that a client gets back the Error that the
// server returned). Plain data, any thread; the server fills a Request on its io thread.
//
// A Request's views point into its connection's memory: they hold until the handler returns. Copy
// what must live longer. `body` is the request's own; a handler may move it out.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace quad::net {

/// A header line, or a path parameter.
struct Field {
  std::string_view name;
  std::string_view value;
};

struct Request {
  std::string_view method;  ///< upper case, as sent: "GET"
  std::string_view target;  ///< as sent: "/v1/jobs/7%20a?follow=1"
  std::string_view path;    ///< the part before '?', percent-decoded
  std::string_view query;   ///< the part after '?', as sent
  std::string_view route;   ///< the pattern that matched: "/v1/jobs/{id}"; empty if none did
  std::string body;         ///< empty for a route that streams its body

  std::string_view peer;                  ///< "10.0.0.3:51234", "[::1]:51234", or "unix"
  std::optional<std::uint32_t> peer_uid;  ///< the caller's user id; only on a unix socket
  bool tls = false;

  std::vector<Field> headers;     ///< in the order sent
  std::vector<Field> parameters;  ///< of the pattern, percent-decoded

  /// The first header of that name (in any case).
  [[nodiscard]] std::optional<std::string_view> header(std::string_view name) const;
  /// The value of {name} in the pattern; empty if the pattern has none.
  [[nodiscard]] std::string_view parameter(std::string_view name) const;
  /// The first value of ?name=, decoded ('+' is a space); "" for a bare ?name. O(query length).
  [[nodiscard]] std::optional<std::string> query_value(std::string_view name) const;
  /// All name=value pairs of the query, decoded, in order.
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> query_values() const;
};

using Headers = std::vector<std::pair<std::string, std::string>>;

struct Response {
  int status = 200;
  std::string content_type;  ///< no Content-Type line if empty
  std::string body;
  Headers headers;  ///< beyond Content-Type, Content-Length, Date and Connection, which the server
                    ///< writes
  /// Sent instead of `body` if set: one text for many answers, without a copy for each.
  std::shared_ptr<const std::string> shared_body;
};

[[nodiscard]] Response json_response(std::string body, int status = 200);
[[nodiscard]] Response text_response(std::string body, int status = 200);
/// {"error": {"code", "message", "where"}} with the status that belongs to the code.
[[nodiscard]] Response error_response(const Error& failure);
/// The same with a status of its own, for what is HTTP's and not Quad's (405, 413, …).
[[nodiscard]] Response error_response(int status, std::string_view code, std::string_view message);

/// 400 for kInvalid, 404 for kNotFound, …: as in base/result.h.
[[nodiscard]] int http_status(ErrorCode code);
/// The reverse, for a client: the Error inside an error body, or one made of the status if the body
/// has none.
[[nodiscard]] Error error_of_response(int status, std::string_view body);

/// "Not Found" for 404; "Status" for a number without a name.
[[nodiscard]] std::string_view reason_phrase(int status);

/// Percent-decoding. Nothing if an escape is broken. `plus_is_space` for query values.
[[nodiscard]] std::optional<std::string> percent_decode(std::string_view text,
                                                        bool plus_is_space = false);
/// Percent-encodes all but letters, digits and "-._~": safe as a path segment and as a query value.
[[nodiscard]] std::string percent_encode(std::string_view text);

/// Equal but for the case of ASCII letters.
[[nodiscard]] bool equal_ignoring_case(std::string_view a, std::string_view b);
/// Whether the comma-separated list has that token, in any case: `Connection: keep-alive, Upgrade`.
[[nodiscard]] bool list_has_token(std::string_view list, std::string_view token);

}  // namespace quad::net
