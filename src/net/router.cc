#include "net/router.h"

#include <algorithm>
#include <map>

#include "base/check.h"

namespace quad::net {

/// A segment of the paths that exist. `routes` are those whose pattern ends here, `tail` those that
/// end in {name...}.
struct Router::Node {
  std::map<std::string, std::unique_ptr<Node>, std::less<>> words;
  std::unique_ptr<Node> any;
  std::vector<const Route*> routes;
  std::vector<const Route*> tail;
};

namespace {

/// Takes the first segment off `path`, which is "" or starts with '/'.
std::string_view take_segment(std::string_view& path) {
  path.remove_prefix(1);
  const auto end = path.find('/');
  const auto segment = path.substr(0, end);
  path = end == std::string_view::npos ? std::string_view{} : path.substr(end);
  return segment;
}

bool answers(const Route& route, std::string_view method) {
  return route.method == method || (method == "HEAD" && route.method == "GET");
}

const Route* find_method(const std::vector<const Route*>& routes, std::string_view method) {
  // An exact method first: a HEAD handler of its own wins over the GET handler.
  for (const auto* route : routes) {
    if (route->method == method) {
      return route;
    }
  }
  for (const auto* route : routes) {
    if (answers(*route, method)) {
      return route;
    }
  }
  return nullptr;
}

/// A walk down the tree; the first node whose routes have the method ends it.
template <typename Node>
struct Search {
  std::string_view method;
  std::vector<std::string_view> arguments;
  std::vector<const Route*> others;  ///< routes of the path for other methods
  std::vector<const Route*> tail_others;
  const Route* found = nullptr;

  bool accept(const std::vector<const Route*>& routes, std::vector<const Route*>& refused) {
    found = find_method(routes, method);
    if (found == nullptr) {
      refused.insert(refused.end(), routes.begin(), routes.end());
    }
    return found != nullptr;
  }

  /// Words and single names.
  bool exact(const Node& node, std::string_view rest) {
    if (rest.empty()) {
      return accept(node.routes, others);
    }
    const auto segment = take_segment(rest);
    if (const auto word = node.words.find(segment);
        word != node.words.end() && exact(*word->second, rest)) {
      return true;
    }
    if (node.any == nullptr || segment.empty()) {
      return false;
    }
    arguments.push_back(segment);
    if (exact(*node.any, rest)) {
      return true;
    }
    arguments.pop_back();
    return false;
  }

  /// The same, ending in a {name...}; the deepest first.
  bool tail(const Node& node, std::string_view rest) {
    const auto here = rest;
    if (!rest.empty()) {
      const auto segment = take_segment(rest);
      if (const auto word = node.words.find(segment);
          word != node.words.end() && tail(*word->second, rest)) {
        return true;
      }
      if (node.any != nullptr && !segment.empty()) {
        arguments.push_back(segment);
        if (tail(*node.any, rest)) {
          return true;
        }
        arguments.pop_back();
      }
    }
    if (accept(node.tail, tail_others)) {
      arguments.push_back(here.empty() ? here : here.substr(1));
      return true;
    }
    return false;
  }
};

std::string allowed_methods(const std::vector<const Route*>& routes) {
  std::vector<std::string_view> methods;
  for (const auto* route : routes) {
    methods.emplace_back(route->method);
    if (route->method == "GET") {
      methods.emplace_back("HEAD");
    }
  }
  std::sort(methods.begin(), methods.end());
  methods.erase(std::unique(methods.begin(), methods.end()), methods.end());
  std::string text;
  for (const auto method : methods) {
    text += text.empty() ? "" : ", ";
    text += method;
  }
  return text;
}

}  // namespace

Router::Router() : root_(std::make_unique<Node>()) {}
Router::~Router() = default;
Router::Router(Router&&) noexcept = default;
Router& Router::operator=(Router&&) noexcept = default;

void Router::add(std::string_view method, std::string_view pattern, Handler handler,
                 RouteOptions options) {
  QUAD_CHECK(pattern.starts_with('/'), "a route's pattern starts with '/'");
  auto route = std::make_unique<Route>(
      Route{std::string(method), std::string(pattern), std::move(handler), options, {}});
  Node* node = root_.get();
  bool tail = false;
  for (auto rest = pattern; !rest.empty();) {
    const auto segment = take_segment(rest);
    QUAD_CHECK(!tail, "a route's {name...} is its last segment");
    if (!segment.starts_with('{')) {
      QUAD_CHECK(segment.find_first_of("{}") == std::string_view::npos,
                 "a route's {name} is a whole segment");
      auto& next = node->words[std::string(segment)];
      if (next == nullptr) {
        next = std::make_unique<Node>();
      }
      node = next.get();
      continue;
    }
    QUAD_CHECK(segment.ends_with('}') && segment.size() > 2, "a route's {name} is a whole segment");
    auto name = segment.substr(1, segment.size() - 2);
    tail = name.ends_with("...");
    if (tail) {
      name.remove_suffix(3);
    } else {
      if (node->any == nullptr) {
        node->any = std::make_unique<Node>();
      }
      node = node->any.get();
    }
    route->names.emplace_back(name);
  }
  auto& list = tail ? node->tail : node->routes;
  QUAD_CHECK(std::none_of(list.begin(), list.end(),
                          [&](const Route* other) { return other->method == method; }),
             "two handlers for one route: " + route->method + " " + route->pattern);
  list.push_back(route.get());
  routes_.push_back(std::move(route));
}

std::vector<const Route*> Router::routes() const {
  std::vector<const Route*> all;
  for (const auto& route : routes_) {
    all.push_back(route.get());
  }
  return all;
}

void Router::before(Filter filter) {
  filter_ = std::move(filter);
}

Router::Match Router::match(std::string_view method, std::string_view path) const {
  Match match;
  if (!path.starts_with('/')) {
    return match;
  }
  Search<Node> search{method, {}, {}, {}, nullptr};
  if (search.exact(*root_, path)) {
    match.route = search.found;
    match.arguments = std::move(search.arguments);
    return match;
  }
  if (!search.others.empty()) {
    match.allowed = allowed_methods(search.others);
    return match;
  }
  search.arguments.clear();
  if (search.tail(*root_, path)) {
    match.route = search.found;
    match.arguments = std::move(search.arguments);
    return match;
  }
  match.allowed = allowed_methods(search.tail_others);
  return match;
}

}  // namespace quad::net
