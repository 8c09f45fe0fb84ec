// server/app.h
//
// The running server as its handlers see it: control, store, logs, sessions, tokens. One io thread
// owns it all; what comes from the control thread is posted here.

#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "config/config.h"
#include "control/control.h"
#include "engine/check.h"
#include "engine/clusters.h"
#include "engine/kubernetes/views/pod_request.h"
#include "net/exchange.h"
#include "net/http_server.h"
#include "net/wakeup.h"
#include "server/allowance.h"
#include "server/histogram.h"
#include "server/log_store.h"
#include "server/report_share.h"
#include "server/upload_room.h"
#include "server/work_pool.h"
#include "store/store.h"

namespace quad::server {

enum class Role { kViewer, kUser, kAdmin };
std::string_view to_string(Role role);
std::optional<Role> role_of(std::string_view text);

/// Who asks.
struct Caller {
  std::string user;
  Role role = Role::kViewer;
  std::string token;  ///< hash of the token that was shown; empty where none is needed
};

struct Token {
  std::string id;  ///< short, for lists and for revoking
  std::string name;
  std::string user;
  Role role = Role::kUser;
  std::string hash;  ///< SHA-256 of the token
  std::string created_at;
};

class RunnerSession;
struct RankSession;

struct App {
  boost::asio::io_context io{1};
  std::filesystem::path data_dir;
  std::string hot;                                   ///< this machine's hot tier
  std::function<std::string(const NodeId&)> hot_of;  ///< the hot tier, as ranks on a node see it
  std::vector<std::string> clusters;                 ///< the names of its Kubernetes engines
  /// What a job that starts would have made in its cluster (server/engines.h).
  std::function<Result<json::array>(const std::shared_ptr<const job::Job>&)> manifests;
  /// What its engines have and lack; blocks, any thread (server/check.h).
  std::function<std::vector<engine::CheckReport>()> check;
  std::map<std::string, kubernetes::PodSettings> pods;  ///< what pods get there
  bool has_local = false;                               ///< this machine is one of its engines
  std::string secret_key;
  std::string url;    ///< where people reach it
  config::Jobs jobs;  ///< defaults and limits
  WallTime started_at;
  const Clock* clock = nullptr;
  store::Store* store = nullptr;
  control::Control* control = nullptr;
  std::unique_ptr<LogStore> logs;
  /// By rank and nonce: a second runner of a rank has a session of its own until it is told to
  /// leave.
  std::map<std::pair<RankKey, std::string>, std::shared_ptr<RunnerSession>> sessions;
  std::map<std::string, std::shared_ptr<RankSession>>
      rank_sessions;                    ///< by their one-time ids: who reaches into ranks now
  std::map<std::string, Token> tokens;  ///< by hash

  /// The newest events, so that followers need not ask the store; oldest first.
  std::deque<job::Event> recent;
  Revision newest;
  std::set<net::Wakeup*>
      waiters;  ///< of open streams: woken by each commit, by a revoked token, and at the end
  std::size_t event_streams = 0;
  std::size_t log_streams = 0;
  std::size_t most_streams = 1024;                ///< of one caller, events and output together
  std::map<std::string, std::size_t> streams_of;  ///< by user

  // For /metrics.
  std::map<int, std::uint64_t> answers;  ///< by class of status: 2 for 2xx
  Histogram request_seconds;
  Histogram commit_seconds;
  const net::HttpServer* http = nullptr;

  /// Blobs whose content was seen to be what their name says, when they came or since, as the files
  /// were then (routes_blobs.cc).
  std::map<std::string, std::string> sound_blobs;

  UploadRoom upload_room;
  ReportShare reports;
  Allowance allowance;
  bool stopping = false;
  /// The last, so that its threads end before what they use does.
  std::unique_ptr<WorkPool> work;
};

/// The caller of an exchange, as the filter found it. Every route but a few open ones has one.
const Caller& caller_of(const net::Exchange& exchange);
/// Answers 403 and returns false unless the caller has at least this role.
bool require(net::Exchange& exchange, Role role);
/// The same before the body is read. `body_limit`: 0 is the server's, which is enough for a few
/// words.
net::RouteOptions for_role(Role role, std::uint64_t body_limit = 0);
/// How long a request may hold up the thread that it is on.
enum class Length {
  kShort,  ///< done at once if all is well, as another thread would only make it later
  kLong,
  kPart,  ///< of an upload: as kLong, but its client is not watched, as it is still sending
};
/// Has `work` done when it is the caller's turn (in_turn), and answers with what it gives.
boost::asio::awaitable<void> answer_in_turn(App& app, net::Exchange& exchange, Length length,
                                            std::function<std::optional<net::Response>()> work);
/// Answers with what may be tried again in a moment.
void respond_busy(net::Exchange& exchange, const Error& why);

/// Whether the caller may still be served: false once the token has been revoked. Streams ask
/// before each write.
bool is_known(const App& app, const Caller& caller);
/// Whether somebody of this name may still do anything here: the server's own user, or whoever has
/// a token.
bool is_user(const App& app, std::string_view user);
/// Whether the caller may have another stream; answers 429 itself.
bool may_stream(const App& app, net::Exchange& exchange);
/// One open stream: woken as a waiter, and counted, for as long as it lives.
class StreamPlace {
 public:
  /// `user`: whose stream it is, if it counts as one of theirs.
  StreamPlace(App& app, net::Wakeup& wakeup, std::size_t& count, std::string user = {});
  ~StreamPlace();
  StreamPlace(const StreamPlace&) = delete;
  StreamPlace& operator=(const StreamPlace&) = delete;

 private:
  App& app_;
  net::Wakeup& wakeup_;
  std::size_t& count_;
  const std::string user_;
};
void wake_streams(App& app);

/// Finds out who asks; answers 401 where nobody does. The routes that need nobody: /healthz, and
/// the runners' own, which check the attempt's token.
void authenticate(App& app, net::Exchange& exchange);
void load_tokens(App& app);
/// Makes a token and records its hash; the token itself is in the result and nowhere else.
std::string make_token(Token& token);
std::string token_record(const Token& token);

/// Everything that this server answers.
net::Router make_routes(App& app);
void add_submit_routes(App& app, net::Router& router);
void add_job_routes(App& app, net::Router& router);
void add_log_routes(App& app, net::Router& router);
void add_event_routes(App& app, net::Router& router);
void add_admin_routes(App& app, net::Router& router);
void add_token_routes(App& app, net::Router& router);
void add_metrics_routes(App& app, net::Router& router);
void add_blob_routes(App& app, net::Router& router);
void add_runner_routes(App& app, net::Router& router);
void add_session_routes(App& app, net::Router& router);

// Between a runner's connection (runner_session.cc) and who reaches into its rank
// (routes_sessions.cc).
/// Tells the runner that was accepted for a rank of the live attempt; false if it is not connected.
bool tell_runner(App& app, const job::Job& job, const RankKey& key, const json::object& message);
/// Whether `peer` (net::Request) is on the machine that the rank's accepted runner is connected
/// from.
bool is_at_runner(App& app, const job::Job& job, const RankKey& key, std::string_view peer);
/// The runner could not open a session.
void session_failed(App& app, const RankKey& key, std::string_view id, std::string_view why);
/// The rank that a runner's request is from, if its query says so and its token is that attempt's;
/// else it is answered, and there is none.
std::optional<RankKey> runner_of(App& app, net::Exchange& exchange);
void add_cluster_routes(App& app, net::Router& router);
/// What control tells the runners' sessions; each call is posted to the io thread.
control::RunnerOrders runner_orders(App& app);
/// How the runners of clusters' nodes are told; likewise.
engine::Holders holders(App& app);

/// What is answered with these events; any thread.
using EventsAnswer = std::function<net::Response(const std::vector<job::Event>&)>;
/// Answers with what `told` makes of what happened up to now and passes the filter, oldest first.
/// Both are done by the pool.
boost::asio::awaitable<void> answer_events(App& app, net::Exchange& exchange,
                                           store::EventFilter filter, EventsAnswer told);

/// The job that the path names, for readers; answers 404 (or 400) itself.
std::shared_ptr<const job::Job> job_of(App& app, net::Exchange& exchange);
/// The same for whoever may change it; answers 403 itself, too.
std::shared_ptr<const job::Job> own_job_of(App& app, net::Exchange& exchange);
net::Response json_answer(const json::value& value, int status = 200);

/// Runs `start(done)` and waits for what it gives to done, which may be called on any thread.
/// `start` must call done exactly once.
template <typename T>
boost::asio::awaitable<T> ask(App& app, net::Exchange& exchange,
                              std::function<void(std::function<void(T)>)> start);

}  // namespace quad::server

#include "server/ask.h"
