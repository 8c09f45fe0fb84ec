#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/text.h"
#include "server/app.h"
#include "server/crypto.h"
#include "server/submit.h"

namespace quad::server {

namespace {

constexpr std::string_view kPrefix = "token/";

std::string user_name(uid_t uid) {
  passwd entry{};
  passwd* found = nullptr;
  char buffer[4096];
  if (getpwuid_r(uid, &entry, buffer, sizeof buffer, &found) == 0 && found != nullptr) {
    return found->pw_name;
  }
  return fmt::format("uid-{}", uid);
}

/// The job whose live attempt's token this is, or null.
std::shared_ptr<const job::Job> job_of_token(const App& app, std::string_view given) {
  const auto parts = split(given, '.');
  if (parts.size() != 3 || parts[0].size() > 18 || parts[1].size() > 9) {
    return nullptr;
  }
  const JobId job(std::strtoll(std::string(parts[0]).c_str(), nullptr, 10));
  const Epoch epoch(
      static_cast<std::int32_t>(std::strtol(std::string(parts[1]).c_str(), nullptr, 10)));
  auto record = app.control->snapshot()->find(job);
  const job::Attempt* attempt = record == nullptr ? nullptr : record->live();
  const bool valid = attempt != nullptr && attempt->epoch == epoch &&
                     equal_constant_time(given, app.control->attempt_token(job, epoch));
  return valid ? std::move(record) : nullptr;
}

/// Whether the job is to be brought this upload.
bool brings_blob(const App& app, const job::Job& job, std::string_view hash) {
  const auto text = store::body_of(*app.store, job);
  const auto body = text.ok() ? open_body(*text, job.request->owner, app.secret_key)
                              : Result<json::object>(text.error());
  if (!body.ok()) {
    return false;
  }
  const json::object* workdir = get_object(*body, "workdir");
  if (workdir != nullptr && get_string(*workdir, "blob") == hash) {
    return true;
  }
  const json::array* mounts = get_array(*body, "mounts");
  return mounts != nullptr && std::any_of(mounts->begin(), mounts->end(), [&](const auto& mount) {
           const json::object* one = mount.if_object();
           return one != nullptr && get_string(*one, "blob") == hash;
         });
}

}  // namespace

std::string_view to_string(Role role) {
  switch (role) {
    case Role::kViewer:
      return "viewer";
    case Role::kUser:
      return "user";
    case Role::kAdmin:
      return "admin";
  }
  return "viewer";
}

std::optional<Role> role_of(std::string_view text) {
  for (const Role role : {Role::kViewer, Role::kUser, Role::kAdmin}) {
    if (text == to_string(role)) {
      return role;
    }
  }
  return std::nullopt;
}

const Caller& caller_of(const net::Exchange& exchange) {
  return *std::any_cast<Caller>(&exchange.context);
}

bool is_known(const App& app, const Caller& caller) {
  return caller.token.empty() || app.tokens.contains(caller.token);
}

bool is_user(const App& app, std::string_view user) {
  return user == user_name(::geteuid()) ||
         std::any_of(app.tokens.begin(), app.tokens.end(),
                     [&](const auto& one) { return one.second.user == user; });
}

bool may_stream(const App& app, net::Exchange& exchange) {
  const std::string& user = caller_of(exchange).user;
  const auto found = app.streams_of.find(user);
  if (found == app.streams_of.end() || found->second < app.most_streams) {
    return true;
  }
  respond_busy(exchange, error(ErrorCode::kExhausted,
                               fmt::format("{} follows events or output in {} places already; "
                                           "close some of them",
                                           user, app.most_streams)));
  return false;
}

StreamPlace::StreamPlace(App& app, net::Wakeup& wakeup, std::size_t& count, std::string user)
    : app_(app), wakeup_(wakeup), count_(count), user_(std::move(user)) {
  app_.waiters.insert(&wakeup_);
  ++count_;
  if (!user_.empty()) {
    ++app_.streams_of[user_];
  }
}

StreamPlace::~StreamPlace() {
  app_.waiters.erase(&wakeup_);
  --count_;
  if (const auto own = app_.streams_of.find(user_);
      own != app_.streams_of.end() && --own->second == 0) {
    app_.streams_of.erase(own);
  }
}

void wake_streams(App& app) {
  for (net::Wakeup* waiter : app.waiters) {
    waiter->notify();
  }
}

bool require(net::Exchange& exchange, Role role) {
  const Caller& caller = caller_of(exchange);
  if (caller.role >= role) {
    return true;
  }
  exchange.respond_error(
      error(ErrorCode::kDenied, fmt::format("This needs the role '{}', and {} has '{}'",
                                            to_string(role), caller.user, to_string(caller.role))));
  return false;
}

net::RouteOptions for_role(Role role, std::uint64_t body_limit) {
  net::RouteOptions options;
  options.body_limit = body_limit;
  options.allow = [role](net::Exchange& exchange) { (void)require(exchange, role); };
  return options;
}

void respond_busy(net::Exchange& exchange, const Error& why) {
  exchange.respond(net::busy_response(why));
}

boost::asio::awaitable<void> answer_in_turn(App& app, net::Exchange& exchange, Length length,
                                            std::function<std::optional<net::Response>()> work) {
  auto answer = co_await in_turn<net::Response>(app, exchange, length, std::move(work));
  if (answer.ok()) {
    exchange.respond(std::move(answer).value());
  } else {
    respond_busy(exchange, answer.error());
  }
}

namespace {

/// Who asks, from now on; the connection is theirs, if there is room for it.
void let_in(net::Exchange& exchange, Caller caller, bool runner) {
  const std::string name = runner ? "a runner" : caller.user;
  exchange.context = std::move(caller);
  if (const Status admitted = exchange.admit(name, runner); !admitted.ok()) {
    respond_busy(exchange, admitted.error());
  }
}

}  // namespace

void authenticate(App& app, net::Exchange& exchange) {
  const net::Request& request = exchange.request();
  if (request.path == "/healthz" || request.path == "/v1/runner" ||
      request.path.starts_with("/v1/runner/")) {
    exchange.context = Caller{};
    return;
  }
  const auto header = request.header("Authorization");
  constexpr std::string_view kBearer = "Bearer ";
  if (header && header->size() > kBearer.size() &&
      net::equal_ignoring_case(header->substr(0, kBearer.size()), kBearer)) {
    const std::string_view given = header->substr(kBearer.size());
    if (const auto it = app.tokens.find(sha256_hex(given)); it != app.tokens.end()) {
      return let_in(exchange, Caller{it->second.user, it->second.role, it->first}, false);
    }
    // Runners fetch their job's blobs with the token of their attempt, which names it:
    // JOB.EPOCH.MAC.
    constexpr std::string_view kBlobs = "/v1/blobs/";
    if (request.path.starts_with(kBlobs) && (request.method == "GET" || request.method == "HEAD")) {
      const auto job = job_of_token(app, given);
      if (job != nullptr && brings_blob(app, *job, request.path.substr(kBlobs.size()))) {
        return let_in(exchange, Caller{"runner", Role::kViewer, {}}, true);
      }
    }
  } else if (request.peer_uid && *request.peer_uid == ::geteuid()) {
    // The socket file lets in only the server's own user, who could read the database as well.
    return let_in(exchange, Caller{user_name(*request.peer_uid), Role::kAdmin, {}}, false);
  }
  net::Response response = net::error_response(error(
      ErrorCode::kUnauthenticated,
      header
          ? "This token is not known here; ask an administrator for another (quad token create)"
          : "Say who you are: send 'Authorization: Bearer TOKEN' (quad token create makes one)"));
  response.headers.emplace_back("WWW-Authenticate", "Bearer");
  exchange.respond(std::move(response));
}

void load_tokens(App& app) {
  app.tokens.clear();
  for (const auto& [key, value] : app.control->settings()) {
    if (!key.starts_with(kPrefix)) {
      continue;
    }
    if (const auto object = parse_json_object(value); object.ok()) {
      Token token;
      token.id = key.substr(kPrefix.size());
      token.name = get_string(*object, "name");
      token.user = get_string(*object, "user");
      token.role = role_of(get_string(*object, "role")).value_or(Role::kViewer);
      token.hash = get_string(*object, "hash");
      token.created_at = get_string(*object, "created_at");
      app.tokens.emplace(token.hash, std::move(token));
    }
  }
}

std::string make_token(Token& token) {
  std::string secret = "quad_" + random_hex(24);
  token.id = random_hex(4);
  token.hash = sha256_hex(secret);
  return secret;
}

std::string token_record(const Token& token) {
  return to_text(json::object{{"name", token.name},
                              {"user", token.user},
                              {"role", to_string(token.role)},
                              {"hash", token.hash},
                              {"created_at", token.created_at}});
}

}  // namespace quad::server
