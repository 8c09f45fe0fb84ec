#include "server/app.h"

namespace quad::server {

namespace {

/// What a browser's form sends is no JSON, whatever its bytes: refused before the body is read.
void check_content_type(net::Exchange& exchange) {
  const net::Request& request = exchange.request();
  const bool has_body =
      exchange.content_length().value_or(0) > 0 || request.header("Transfer-Encoding").has_value();
  if (request.method != "POST" || request.route.empty() || !has_body) {
    return;
  }
  const auto given = request.header("Content-Type");
  if (!given) {
    return;
  }
  std::string_view type = given->substr(0, given->find(';'));
  while (type.ends_with(' ')) {
    type.remove_suffix(1);
  }
  if (!net::equal_ignoring_case(type, "application/json")) {
    exchange.respond(net::error_response(
        415, "invalid", "The body must be JSON: send 'Content-Type: application/json'"));
  }
}

}  // namespace

net::Router make_routes(App& app) {
  net::Router router;
  add_submit_routes(app, router);
  add_job_routes(app, router);
  add_log_routes(app, router);
  add_event_routes(app, router);
  add_admin_routes(app, router);
  add_token_routes(app, router);
  add_metrics_routes(app, router);
  add_blob_routes(app, router);
  add_runner_routes(app, router);
  add_session_routes(app, router);
  add_cluster_routes(app, router);
  router.before([&app](net::Exchange& exchange) {
    authenticate(app, exchange);
    if (!exchange.responded()) {
      check_content_type(exchange);
    }
  });
  return router;
}

}  // namespace quad::server
