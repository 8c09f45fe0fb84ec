#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "server/app.h"
#include "server/input.h"

namespace quad::server {

namespace asio = boost::asio;

namespace {

asio::awaitable<void> list_tokens(App& app, net::Exchange& exchange) {
  if (!require(exchange, Role::kAdmin)) {
    co_return;
  }
  json::array list;
  for (const auto& [hash, token] : app.tokens) {
    list.push_back(json::object{{"id", token.id},
                                {"name", token.name},
                                {"user", token.user},
                                {"role", to_string(token.role)},
                                {"created_at", token.created_at}});
  }
  exchange.respond(json_answer(json::object{{"tokens", std::move(list)}}));
}

job::Event token_event(const Token& token, std::string kind, const std::string& by,
                       std::string_view what) {
  job::Event event;
  event.kind = std::move(kind);
  event.actor = by;
  event.message = fmt::format("{} {} token {} of {} ({}).", by, what, token.id, token.user,
                              to_string(token.role));
  return event;
}

bool is_user_name(std::string_view text) {
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._@-";
  return !text.empty() && text.size() <= 64 &&
         text.find_first_not_of(kAllowed) == std::string_view::npos;
}

/// Words that stand where users' names do: who is asked for, and who did what in the events.
bool is_reserved(std::string_view name) {
  constexpr std::array<std::string_view, 8> kReserved = {
      "me", "all", "server", "runner", "engine", "control", "quad", "everybody"};
  return std::any_of(kReserved.begin(), kReserved.end(),
                     [&](std::string_view word) { return same_ignoring_case(word, name); });
}

Result<Token> read_token(std::string_view text) {
  QUAD_ASSIGN(const json::object body, parse_json_object(text));
  ObjectReader reader(body);
  Token token;
  token.user = reader.text("user").value_or("");
  token.name = reader.text("name").value_or(token.user);
  const std::string role = reader.text("role").value_or("user");
  if (!is_user_name(token.user)) {
    reader.refuse("user", "1 to 64 letters, digits, '.', '_', '@' or '-'");
  }
  if (is_reserved(token.user)) {
    reader.refuse("user",
                  fmt::format("another word than '{}', which Quad uses itself", token.user));
  }
  if (characters_of(token.name) > 100) {
    reader.refuse("name", "at most 100 characters long");
  }
  if (const auto known = role_of(role)) {
    token.role = *known;
  } else {
    reader.refuse("role", "admin, user or viewer");
  }
  QUAD_TRY(reader.finish());
  return token;
}

asio::awaitable<void> create_token(App& app, net::Exchange& exchange) {
  if (!require(exchange, Role::kAdmin)) {
    co_return;
  }
  auto read = read_token(exchange.request().body);
  if (!read.ok()) {
    exchange.respond_error(read.error());
    co_return;
  }
  Token token = std::move(read).value();
  token.created_at = format_rfc3339(app.clock->now().wall);
  const std::string secret = make_token(token);
  const job::Event event = token_event(token, "token.created", caller_of(exchange).user, "made");
  const std::function<void(std::function<void(Status)>)> start =
      [&](std::function<void(Status)> done) {
        app.control->set_setting("token/" + token.id, token_record(token), event, std::move(done));
      };
  const Status status = co_await ask<Status>(app, exchange, start);
  if (!status.ok()) {
    exchange.respond_error(status.error());
    co_return;
  }
  load_tokens(app);
  exchange.respond(json_answer(json::object{{"id", token.id},
                                            {"token", secret},
                                            {"user", token.user},
                                            {"role", to_string(token.role)}},
                               201));
}

asio::awaitable<void> revoke_token(App& app, net::Exchange& exchange) {
  if (!require(exchange, Role::kAdmin)) {
    co_return;
  }
  const std::string id(exchange.parameter("id"));
  const auto it = std::find_if(app.tokens.begin(), app.tokens.end(),
                               [&](const auto& one) { return one.second.id == id; });
  if (it == app.tokens.end()) {
    exchange.respond_error(
        error(ErrorCode::kNotFound, fmt::format("There is no token '{}'", excerpt(id))));
    co_return;
  }
  const job::Event event =
      token_event(it->second, "token.revoked", caller_of(exchange).user, "revoked");
  const std::function<void(std::function<void(Status)>)> start =
      [&](std::function<void(Status)> done) {
        app.control->set_setting("token/" + id, "", event, std::move(done));
      };
  const Status status = co_await ask<Status>(app, exchange, start);
  if (!status.ok()) {
    exchange.respond_error(status.error());
    co_return;
  }
  load_tokens(app);
  wake_streams(app);  // those that this token opened end now
  exchange.respond(json_answer(json::object{{"id", id}, {"revoked", true}}));
}

}  // namespace

void add_token_routes(App& app, net::Router& router) {
  router.get("/v1/tokens", [&app](net::Exchange& e) { return list_tokens(app, e); });
  router.post(
      "/v1/tokens", [&app](net::Exchange& e) { return create_token(app, e); },
      for_role(Role::kAdmin));
  router.add(
      "DELETE", "/v1/tokens/{id}", [&app](net::Exchange& e) { return revoke_token(app, e); },
      for_role(Role::kAdmin));
}

}  // namespace quad::server
