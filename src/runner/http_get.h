// runner/http_get.h
//
// A blocking HTTP/1.1 GET that streams its body: for workers, which fetch blobs from the server and
// files from elsewhere. Follows redirects, never hands a token to another host, never from https to
// http. Times out when nothing comes for 60 s. kUnavailable is what may pass by trying again: no
// connection, one that was cut, 5xx.

#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "runner/endpoint.h"
#include "runner/tls.h"

namespace quad::runner {

struct GetRequest {
  std::string server;  ///< "unix:/path" or "http(s)://host:port"
  std::string target;  ///< "/path?query"
  std::string token;   ///< empty: none
  std::string ca;      ///< as in start.json
  int max_redirects = 0;
};

/// A response whose body is read piece by piece.
class HttpGet {
 public:
  HttpGet() = default;
  HttpGet(const HttpGet&) = delete;
  HttpGet& operator=(const HttpGet&) = delete;

  /// Sends the request and reads the headers. Any status but 2xx is an error that holds the body's
  /// beginning.
  Status open(const GetRequest& request);
  /// The next bytes of the body; empty at its end. An end before all was there is an error.
  Result<std::string_view> read();

 private:
  Status connect(const Endpoint& endpoint, const std::string& ca);
  Status send_all(std::string_view bytes);
  /// More bytes into buffer_; false at the end of the stream.
  Result<bool> fill();
  Status wait(short events);
  Result<std::string> read_line();

  UniqueFd fd_;
  Tls tls_;
  std::string buffer_;
  std::size_t used_ = 0;  // of buffer_
  bool chunked_ = false;
  bool bounded_ = false;
  bool finished_ = false;
  std::uint64_t left_ = 0;  // of the body or of the chunk
};

/// "https://host/path?query" as server and target.
Result<GetRequest> request_for(std::string_view url);

}  // namespace quad::runner
