// Sessions: who reaches into a running rank (docs/runner-protocol.md). The server checks the right,
// has the rank's runner dial back, and joins the two connections; what they say to each other is
// none of its business.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "base/text.h"
#include "runner/protocol.h"
#include "server/app.h"
#include "server/input.h"
#include "server/splice.h"

namespace quad::server {

namespace asio = boost::asio;

constexpr std::string_view kSessionProtocol = "quad-session/1";
constexpr Millis kDialBack{15'000};
constexpr std::size_t kMostOfRank = 32;
constexpr std::size_t kMostOfUser = 128;
constexpr std::size_t kMostOfServer = 512;

/// One session, from the request to its end.
struct RankSession {
  RankSession(const RankKey& rank, const asio::any_io_executor& executor)
      : key(rank), arrived(executor), over(executor) {}
  RankKey key;
  std::string user;     ///< who reaches in; empty for a launch agent
  net::Wakeup arrived;  ///< the runner's end came, or its refusal, or the client has gone
  net::Wakeup over;     ///< the runner's request may be answered to its end
  std::optional<net::RawStream> runner;
  std::string failure;
  bool is_over = false;
};

void session_failed(App& app, const RankKey& key, std::string_view id, std::string_view why) {
  const auto it = app.rank_sessions.find(std::string(id));
  if (it != app.rank_sessions.end() && it->second->key == key) {
    it->second->failure = why.empty() ? "its runner refuses" : std::string(why);
    it->second->arrived.notify();
  }
}

namespace {

struct Asked {
  std::shared_ptr<const job::Job> job;
  RankKey key;
  std::string kind;
  std::string actor;
  std::string who;  ///< the beginning of a sentence: "alice", "Rank 0"
  Caller caller;
  bool by_rank = false;  ///< a rank reaches another of its job
};

net::Response not_running(std::string message) {
  return net::error_response(409, "not_running", std::move(message));
}

/// Why nobody can reach into the rank now; empty if one may try.
std::string why_not(const job::Job& job, std::int64_t rank) {
  const std::int64_t id = job.id.value();
  const std::string_view status = to_string(job.status);
  if (job::is_terminal(job.status)) {
    return fmt::format("Job {} has ended ({}), so nothing of it runs", id, status);
  }
  const job::Attempt* attempt = job.live();
  if (attempt == nullptr) {
    return fmt::format(
        "Job {} is {}, so nothing of it runs at present; 'quad why {}' says what it waits for", id,
        status, id);
  }
  const job::RankRecord& record = attempt->ranks[static_cast<std::size_t>(rank)];
  if (record.end) {
    return fmt::format("Rank {} of job {} ({}) has ended", rank, id, status);
  }
  if (record.phase == job::RankPhase::kOrdered || record.phase == job::RankPhase::kConnected) {
    return fmt::format("Rank {} of job {} ({}) is only being started; try again in a moment", rank,
                       id, status);
  }
  return {};
}

/// Takes a session's place in the list for as long as it lives, and lets the runner's handler end.
class Place {
 public:
  Place(App& app, std::string id, std::shared_ptr<RankSession> session)
      : app_(app), id_(std::move(id)), session_(std::move(session)) {
    app_.rank_sessions.emplace(id_, session_);
    app_.control->change_sessions({session_->key.job, +1});
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    app_.rank_sessions.erase(id_);
    app_.control->change_sessions({session_->key.job, -1});
    session_->is_over = true;
    session_->over.notify();
  }

 private:
  App& app_;
  const std::string id_;
  std::shared_ptr<RankSession> session_;
};

job::Event event_of(const Asked& asked, std::string kind, std::string message, json::object data) {
  job::Event event;
  event.job = asked.job->id;
  event.epoch = asked.key.epoch;
  event.rank = asked.key.rank;
  if (const job::Attempt* attempt = asked.job->live()) {
    event.node =
        attempt->ranks[static_cast<std::size_t>(asked.key.rank.value())].holding.node.value();
  }
  event.kind = std::move(kind);
  event.actor = asked.actor;
  event.message = std::move(message);
  event.data = std::move(data);
  return event;
}

/// Why a session must end although neither of its ends wants to.
std::string must_end(App& app, const Asked& asked) {
  if (app.stopping) {
    return "the server stops";
  }
  if (!is_known(app, asked.caller)) {
    return "its token was revoked";
  }
  const auto job = app.control->snapshot()->find(asked.key.job);
  if (job != nullptr && asked.by_rank && !is_user(app, job->request->owner)) {
    return "its owner's last token was revoked";
  }
  const job::Attempt* attempt = job == nullptr ? nullptr : job->live();
  // A rank's end closes the runner's side by itself; this is for one on a lost node.
  return attempt == nullptr || attempt->epoch != asked.key.epoch ? "the attempt has ended" : "";
}

/// Why there is no room for another session; empty if there is.
std::string why_full(const App& app, const Asked& asked) {
  std::size_t of_rank = 0;
  std::size_t of_user = 0;
  for (const auto& [id, session] : app.rank_sessions) {
    of_rank += session->key == asked.key ? 1 : 0;
    of_user += !session->user.empty() && session->user == asked.caller.user ? 1 : 0;
  }
  if (of_rank >= kMostOfRank) {
    return fmt::format("Rank {} has {} sessions already; end one first", asked.key.rank.value(),
                       kMostOfRank);
  }
  if (of_user >= kMostOfUser) {
    return fmt::format("{} has {} sessions already; end one first", asked.who, kMostOfUser);
  }
  return app.rank_sessions.size() < kMostOfServer
             ? ""
             : fmt::format("The server has {} sessions already; try again later", kMostOfServer);
}

asio::awaitable<void> serve_session(App& app, net::Exchange& exchange, Asked asked) {
  if (!exchange.request().header("Upgrade")) {
    exchange.respond_error(
        error(ErrorCode::kInvalid,
              fmt::format("This address is for an upgrade to '{}'; the request must ask for it",
                          kSessionProtocol)));
    co_return;
  }
  const std::int32_t rank = asked.key.rank.value();
  if (std::string why = why_not(*asked.job, rank); !why.empty()) {
    exchange.respond(not_running(std::move(why)));
    co_return;
  }
  if (const std::string full = why_full(app, asked); !full.empty()) {
    exchange.respond_error(error(ErrorCode::kExhausted, full));
    co_return;
  }
  const std::string id = random_hex(16);
  const auto session = std::make_shared<RankSession>(asked.key, exchange.executor());
  session->user = asked.caller.user;
  const Place place(app, id, session);
  // The runner lets the other end do what its kind says, so that the record is true.
  if (!tell_runner(app, *asked.job, asked.key,
                   {{"type", "session"}, {"id", id}, {"kind", asked.kind}})) {
    exchange.respond(not_running(fmt::format(
        "The runner of rank {} of job {} is out of touch at present; try again in a moment", rank,
        asked.key.job.value())));
    co_return;
  }
  exchange.on_closed([session] { session->arrived.notify(); });
  const MonoTime until = app.clock->now().mono + kDialBack;
  while (!session->runner && session->failure.empty()) {
    const Millis left = until - app.clock->now().mono;
    if (left <= Millis(0) || exchange.closed()) {
      session->failure = "its runner did not answer in time; try again";
      break;
    }
    co_await session->arrived.wait_for(left);
  }
  if (!session->runner) {
    exchange.respond(not_running(fmt::format("Rank {} of job {} cannot be reached into: {}", rank,
                                             asked.key.job.value(), session->failure)));
    co_return;
  }
  // On record before anything can be done with it.
  const std::string what =
      fmt::format("{} {} session", asked.kind == "exec" ? "an" : "a", asked.kind);
  job::Event began = event_of(asked, "session.began",
                              fmt::format("{} began {} in rank {}.", asked.who, what, rank),
                              {{"kind", asked.kind}, {"session", id.substr(0, 8)}});
  const std::function<void(std::function<void(Status)>)> record =
      [&](std::function<void(Status)> done) { app.control->record(began, std::move(done)); };
  const Status recorded = co_await ask<Status>(app, exchange, record);
  if (!recorded.ok()) {
    exchange.respond_error(recorded.error());
    co_return;
  }
  auto client = co_await exchange.upgrade(std::string(kSessionProtocol));
  if (!client.ok()) {
    exchange.respond_error(client.error());
    co_return;
  }
  const MonoTime began_at = app.clock->now().mono;
  Splice splice(std::move(client).value(), *session->runner, exchange.executor());
  std::size_t counted = 0;
  SpliceOptions options;
  options.must_end = [&app, &asked] { return must_end(app, asked); };
  const StreamPlace stream(app, splice.news(), counted);  // commits and revoked tokens wake it
  const std::string reason = co_await splice.run(options);
  const Millis took = app.clock->now().mono - began_at;
  app.control->record(
      event_of(asked, "session.ended",
               fmt::format("{}'s {} session in rank {} ended after {}{}.", asked.who, asked.kind,
                           rank, format_duration(took), reason.empty() ? "" : ", as " + reason),
               {{"kind", asked.kind},
                {"session", id.substr(0, 8)},
                {"bytes", splice.bytes()},
                {"ms", took.count()}}),
      [](const Status& /*recorded*/) {});
}

/// GET /v1/jobs/{id}/session?kind=&rank=
asio::awaitable<void> open_session(App& app, net::Exchange& exchange) {
  constexpr std::array<std::string_view, 4> kKinds = {"exec", "shell", "copy", "forward"};
  const auto job = own_job_of(app, exchange);
  if (job == nullptr) {
    co_return;
  }
  QueryReader query(exchange.request());
  const std::int64_t rank = query.integer("rank", {0, INT32_MAX}).value_or(0);
  const std::string kind = query.text("kind").value_or("exec");
  if (std::find(kKinds.begin(), kKinds.end(), kind) == kKinds.end()) {
    query.refuse("kind", kind, join_words({kKinds.begin(), kKinds.end()}, "or"));
  }
  if (Status read = query.finish(); !read.ok()) {
    exchange.respond_error(read.error());
    co_return;
  }
  if (rank >= job->request->ranks) {
    exchange.respond_error(error(
        ErrorCode::kNotFound,
        job->request->ranks == 1
            ? fmt::format("Job {} has rank 0 only", job->id.value())
            : fmt::format("Job {} has ranks 0 to {}", job->id.value(), job->request->ranks - 1),
        "rank"));
    co_return;
  }
  const Caller& caller = caller_of(exchange);
  const RankKey key{job->id, job->epoch(), Rank(static_cast<std::int32_t>(rank))};
  Asked asked{job, key, kind, caller.user, caller.user, caller};
  co_await serve_session(app, exchange, std::move(asked));
}

/// The rank of the live attempt that `host` means: an address, a name as the engine gives it, a
/// node, or "rank-N".
std::optional<Rank> rank_at(const job::Job& job, std::string_view host) {
  const job::Attempt* attempt = job.live();
  for (std::size_t i = 0; attempt != nullptr && i < attempt->ranks.size(); ++i) {
    const job::RankRecord& rank = attempt->ranks[i];
    const std::string short_name(host.substr(0, host.find('.')));
    if (host == rank.address || host == rank.holding.node.value() ||
        host == fmt::format("rank-{}", i) ||
        short_name.ends_with(fmt::format("-{}-r{}", job.id.value(), i))) {
      return Rank(static_cast<std::int32_t>(i));
    }
  }
  return std::nullopt;
}

/// GET /v1/runner/reach?job=&epoch=&rank=&host=: a rank's launch agent.
asio::awaitable<void> reach_rank(App& app, net::Exchange& exchange) {
  const auto from = runner_of(app, exchange);
  if (!from) {
    co_return;
  }
  const auto job = app.control->snapshot()->find(from->job);
  if (job->live() == nullptr || job->epoch() != from->epoch) {
    exchange.respond(net::error_response(410, "gone", "That attempt has ended"));
    co_return;
  }
  if (!is_user(app, job->request->owner)) {
    exchange.respond_error(
        error(ErrorCode::kDenied, fmt::format("The last token of {}, who owns job {}, was revoked",
                                              job->request->owner, job->id.value())));
    co_return;
  }
  // The token alone is not enough: whoever has read it may be anywhere.
  if (!is_at_runner(app, *job, *from, exchange.request().peer)) {
    exchange.respond_error(
        error(ErrorCode::kDenied,
              fmt::format("Only rank {} of job {} itself may ask for this, from where "
                          "its runner is",
                          from->rank.value(), job->id.value())));
    co_return;
  }
  const std::string host = exchange.request().query_value("host").value_or("");
  const auto rank = rank_at(*job, host);
  if (!rank) {
    exchange.respond_error(
        error(ErrorCode::kNotFound, fmt::format("No rank of job {} has the address or name '{}'",
                                                job->id.value(), excerpt(host))));
    co_return;
  }
  Asked asked;
  asked.job = job;
  asked.key = RankKey{job->id, from->epoch, *rank};
  asked.kind = "exec";
  asked.actor = "runner";
  asked.who = fmt::format("Rank {}", from->rank.value());
  asked.by_rank = true;
  co_await serve_session(app, exchange, std::move(asked));
}

/// GET /v1/runner/session?job=&epoch=&rank=&id=: the rank's end of a session.
asio::awaitable<void> dial_back(App& app, net::Exchange& exchange) {
  const auto key = runner_of(app, exchange);
  if (!key) {
    co_return;
  }
  const auto it = app.rank_sessions.find(exchange.request().query_value("id").value_or(""));
  if (it == app.rank_sessions.end() || it->second->key != *key || it->second->runner) {
    exchange.respond(net::error_response(410, "gone", "Nobody waits for this session any more"));
    co_return;
  }
  const std::shared_ptr<RankSession> session = it->second;
  auto stream = co_await exchange.upgrade(std::string(kSessionProtocol));
  if (!stream.ok()) {
    exchange.respond_error(stream.error());
    co_return;
  }
  if (session->runner || session->is_over) {
    co_return;
  }
  session->runner = std::move(stream).value();
  session->arrived.notify();
  // The stream lives as long as its exchange.
  while (!session->is_over) {
    co_await session->over.wait();
  }
}

}  // namespace

void add_session_routes(App& app, net::Router& router) {
  router.get("/v1/jobs/{id}/session", [&app](net::Exchange& e) { return open_session(app, e); });
  router.get("/v1/runner/session", [&app](net::Exchange& e) { return dial_back(app, e); });
  router.get("/v1/runner/reach", [&app](net::Exchange& e) { return reach_rank(app, e); });
}

}  // namespace quad::server
