// net/router.h
//
// Which handler answers which request. Filled once at start, then given to the server and never
// changed. A look-up costs one step for each segment of the path.
//
// A pattern is a path whose segments are words, {names} that match one segment, or, at the end,
// {name...} that matches all that is left, slashes included (and nothing). "/v1/jobs/{id}/logs".
// Segments are matched as sent and decoded afterwards, so an escaped slash stays inside its
// parameter. Words win over names, names over {name...}. A path that only other methods have
// answers 405; one that nothing has answers 404. GET handlers answer HEAD too.

#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "net/message.h"

namespace quad::net {

class Exchange;

/// Answers one request. A lambda with captures may be a coroutine here: the router keeps it alive,
/// so that its captures outlive every call. Use no references to anything shorter-lived than the
/// server.
using Handler = std::function<boost::asio::awaitable<void>(Exchange&)>;
/// Looks at a request before its handler and before its body is read; if it responds, that is the
/// answer.
using Filter = std::function<void(Exchange&)>;

enum class BodyMode {
  kBuffered,  ///< the body is read before the handler is called; 413 past the limit
  kStreamed,  ///< the handler reads the body
};

struct RouteOptions {
  BodyMode body = BodyMode::kBuffered;
  std::uint64_t body_limit = 0;  ///< 0: the server's for kBuffered, none for kStreamed
  /// Looks at a request for this route after Router::before and before its body is read; if it
  /// responds, that is the answer.
  Filter allow = {};
};

struct Route {
  std::string method;
  std::string pattern;
  Handler handler;
  RouteOptions options;
  std::vector<std::string> names;  ///< of the pattern's parameters, in order
};

class Router {
 public:
  Router();
  ~Router();
  Router(Router&&) noexcept;
  Router& operator=(Router&&) noexcept;

  /// Adds a handler. A pattern that is malformed or already there for the method is a programming
  /// error (aborts).
  void add(std::string_view method, std::string_view pattern, Handler handler,
           RouteOptions options = {});
  void get(std::string_view pattern, Handler handler) { add("GET", pattern, std::move(handler)); }
  void post(std::string_view pattern, Handler handler, RouteOptions options = {}) {
    add("POST", pattern, std::move(handler), std::move(options));
  }

  /// Sets the filter that every request passes first, those without a route (404, 405) included.
  void before(Filter filter);

  struct Match {
    const Route* route = nullptr;             ///< null: 404, or 405 if `allowed` has something
    std::vector<std::string_view> arguments;  ///< as sent, in the order of route->names
    std::string allowed;                      ///< for 405: "GET, HEAD, PUT"
  };
  /// What answers `method` on `path` (as sent, without the query).
  [[nodiscard]] Match match(std::string_view method, std::string_view path) const;
  [[nodiscard]] const Filter& filter() const { return filter_; }
  /// All routes, in the order in which they were added.
  [[nodiscard]] std::vector<const Route*> routes() const;

 private:
  struct Node;
  std::unique_ptr<Node> root_;
  std::vector<std::unique_ptr<Route>> routes_;
  Filter filter_;
};

}  // namespace quad::net
