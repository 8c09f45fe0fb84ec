#include "server/server.h"

#include <fmt/format.h>
#include <malloc.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>

#include "base/file.h"
#include "base/machine.h"
#include "base/text.h"
#include "config/words.h"
#include "server/app.h"
#include "server/authority.h"
#include "server/certificate_watch.h"
#include "server/check.h"
#include "server/crypto.h"
#include "server/engines.h"
#include "server/timed_store.h"

namespace quad::server {

namespace fs = std::filesystem;
namespace asio = boost::asio;

namespace {

constexpr std::size_t kRecentEvents = 4096;
constexpr Millis kStopGrace{3'000};

/// A unix socket's path is at most 107 bytes long; a deeper data directory gets its socket in the
/// user's runtime folder.
Result<std::string> socket_path(const fs::path& data_dir) {
  constexpr std::size_t kLongest = 100;
  const std::string here = (data_dir / "quad.sock").string();
  if (here.size() <= kLongest) {
    return here;
  }
  const fs::path folder =
      fmt::format("/tmp/quad-{}-{}", ::geteuid(), sha256_hex(here).substr(0, 16));
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return errno_error(fmt::format("Cannot make {}", folder.string()), errno);
  }
  struct stat info {};
  if (::lstat(folder.c_str(), &info) != 0 || !S_ISDIR(info.st_mode) || info.st_uid != ::geteuid() ||
      (info.st_mode & 077U) != 0) {
    return error(ErrorCode::kDenied,
                 fmt::format("{} is somebody else's; give a shorter --data-dir", folder.string()));
  }
  return (folder / "quad.sock").string();
}

Result<std::uint16_t> listen(net::HttpServer& http, const config::Config& config,
                             const fs::path& data_dir) {
  const auto try_port = [&](std::uint16_t port) {
    return config.tls.certificate.empty()
               ? http.listen_tcp(config.listen, port)
               : http.listen_tls(config.listen, port, {config.tls.certificate, config.tls.key});
  };
  if (config.port >= 0) {
    return try_port(static_cast<std::uint16_t>(config.port));
  }
  // As last time, so that addresses that people noted down go on working.
  if (const auto last = read_endpoint(data_dir); last.ok()) {
    const std::size_t colon = last->url.rfind(':');
    const int port = colon == std::string::npos ? 0 : std::atoi(last->url.c_str() + colon + 1);
    if (port > 0 && port < 65536) {
      if (auto again = try_port(static_cast<std::uint16_t>(port)); again.ok()) {
        return again;
      }
    }
  }
  return try_port(0);
}

/// Lets this process open as many files as it may: each connection and each log that is written to
/// takes one. Returns the limit that was there before, which is the right one for users' programs,
/// unless it is lower than what programs count on.
std::uint64_t raise_open_files() {
  constexpr std::uint64_t kUsual = 1024;
  constexpr std::uint64_t kEnough = 65'536;
  constexpr std::uint64_t kFew = 256;
  const std::uint64_t before = allow_open_files(kUsual);
  const std::uint64_t now = allow_open_files(kEnough);
  if (now < kFew) {
    spdlog::warn(
        "this server and each of its jobs may open {} files only, which may not be enough "
        "for either; raise the hard limit (ulimit -Hn)",
        now);
  }
  return before;
}

/// How many connections there may be: over TCP at most half of the files, over the unix socket a
/// quarter, so that enough are left for logs and the store.
void bound_connections(net::ServerOptions& options) {
  rlimit files{};
  const rlim_t most = ::getrlimit(RLIMIT_NOFILE, &files) == 0 ? files.rlim_cur : 1024;
  options.max_connections = std::min<std::size_t>(options.max_connections, most / 2);
  options.max_local_connections = std::min<std::size_t>(options.max_local_connections, most / 4);
}

/// The host of a URL at which this machine's own programs find a server that listens there.
std::string own_host(const std::string& listen) {
  // All addresses are no address that one can connect to.
  if (listen == "0.0.0.0" || listen == "::") {
    return listen == "::" ? "[::1]" : "127.0.0.1";
  }
  return listen.find(':') == std::string::npos ? listen : "[" + listen + "]";
}

/// This server, as no other is called that has the same records: a copied data directory is another
/// folder, or on another machine. The same after a restart, as the directory's lock lets no two
/// run.
std::string this_server(const fs::path& data_dir) {
  struct stat folder {};
  (void)::stat(data_dir.c_str(), &folder);
  const std::string host = host_name();
  const std::string name = host.empty() ? "?" : host;
  return fmt::format("{}_{}", name,
                     sha256_hex(fmt::format("{} {} {}:{} {}", name, read_boot_id().value_or(""),
                                            folder.st_dev, folder.st_ino, data_dir.string()))
                         .substr(0, 8));
}

/// Where runners find this server.
std::string runners_url(const config::Config& config, const std::string& listened,
                        const std::string& socket) {
  if (!config.runners_over_tcp) {
    return "unix:" + socket;
  }
  return config.url.empty() ? listened : config.url;
}

/// The records, with the keys that belong to them.
Result<std::unique_ptr<store::Store>> open_records(App& app, bool accept_lost,
                                                   std::string& attempt_key) {
  const fs::path secret_file = app.data_dir / "secret.key";
  const fs::path attempt_file = app.data_dir / "attempt.key";
  QUAD_ASSIGN(const Key secret, load_key(secret_file));
  QUAD_ASSIGN(const Key attempt, load_key(attempt_file));
  store::OpenOptions open;
  open.hot = fs::path(app.has_local ? app.hot : std::string());
  open.keys = {{"secret.key", check_value(secret.bytes), secret.kept},
               {"attempt.key", check_value(attempt.bytes), attempt.kept}};
  open.accept_lost = accept_lost;
  QUAD_ASSIGN(store::Opened opened, store::open_sqlite(app.data_dir, open));
  for (const std::string& one : opened.lost) {
    spdlog::warn("records are taken back: {}", one);
  }
  for (const std::string& one : opened.notes) {
    spdlog::warn("{}", one);
  }
  QUAD_TRY(keep_key(secret_file, secret));
  QUAD_TRY(keep_key(attempt_file, attempt));
  app.secret_key = secret.bytes;
  attempt_key = attempt.bytes;
  return std::move(opened.store);
}

/// The first administrator's token, in a file that only the server's user can read. Made again when
/// no token is left.
Status first_token(App& app) {
  if (!app.tokens.empty()) {
    return {};
  }
  Token token;
  token.name = "first";
  token.user = "admin";
  token.role = Role::kAdmin;
  token.created_at = format_rfc3339(app.clock->now().wall);
  const std::string secret = make_token(token);
  job::Event event;
  event.kind = "token.created";
  event.actor = "server";
  event.message = fmt::format("The first administrator's token, {}, was made.", token.id);
  QUAD_TRY(write_file_atomically(app.data_dir / "admin.token", secret + "\n", 0600));
  app.tokens.emplace(token.hash, token);
  app.control->set_setting(
      "token/" + token.id, token_record(token), std::move(event), [](const Status& status) {
        if (!status.ok()) {
          spdlog::error("the first token is not recorded: {}", status.error().message);
        }
      });
  return {};
}

/// The node itself, or what the cluster's node is on.
NodeId machine_of(const App& app, const NodeId& node) {
  const auto held = engine::parse_cluster_node(node);
  const auto holder = held ? app.control->snapshot()->find(held->holder.job) : nullptr;
  if (holder != nullptr) {
    for (const job::Attempt& attempt : holder->attempts) {
      const auto rank = static_cast<std::size_t>(held->holder.rank.value());
      if (attempt.epoch == held->holder.epoch && rank < attempt.ranks.size()) {
        return attempt.ranks[rank].holding.node;
      }
    }
  }
  return node;
}

/// Each minute, until the timer is cancelled.
void look_after_certificate(asio::steady_timer& timer, CertificateWatch& watch, const App& app) {
  constexpr std::chrono::minutes kEvery{1};
  timer.expires_after(kEvery);
  timer.async_wait([&](const boost::system::error_code& failure) {
    if (!failure) {
      watch.look(app.clock->now().wall);
      look_after_certificate(timer, watch, app);
    }
  });
}

/// Each second, until the timer is cancelled: a socket that somebody has removed is made again, as
/// runners and the command line find this server by it.
void look_after_socket(asio::steady_timer& timer, net::HttpServer& http, const std::string& socket,
                       bool missing = false) {
  constexpr std::chrono::seconds kEvery{1};
  timer.expires_after(kEvery);
  timer.async_wait([&, missing](const boost::system::error_code& failure) {
    if (failure) {
      return;
    }
    struct stat facts {};
    const bool gone = ::lstat(socket.c_str(), &facts) != 0 && errno == ENOENT;
    if (gone) {
      const Status again = http.listen_unix(socket);
      if (again.ok()) {
        spdlog::warn("{} had been removed, and is there again", socket);
      } else if (!missing) {
        spdlog::error("{} was removed and cannot be made again: {}", socket, again.error().message);
      }
    }
    look_after_socket(timer, http, socket, gone);
  });
}

void take_commit(App& app, std::vector<job::Event> events) {
  for (job::Event& event : events) {
    app.newest = std::max(app.newest, event.revision);
    app.recent.push_back(std::move(event));
  }
  while (app.recent.size() > kRecentEvents) {
    app.recent.pop_front();
  }
  wake_streams(app);
}

}  // namespace

Result<Endpoint> read_endpoint(const fs::path& data_dir) {
  QUAD_ASSIGN(const std::string text, read_file(data_dir / "server.json", 1U << 16U));
  QUAD_ASSIGN(const json::object object, parse_json_object(text));
  return Endpoint{std::string(get_string(object, "url")), std::string(get_string(object, "socket")),
                  static_cast<int>(get_int(object, "pid")),
                  std::string(get_string(object, "public_url")),
                  std::string(get_string(object, "ca"))};
}

Status serve(const ServeOptions& options) {
  config::Config config = options.config;
  ::signal(SIGPIPE, SIG_IGN);
  spdlog::set_default_logger(spdlog::stderr_logger_mt("quad"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  if (options.quiet) {
    spdlog::set_level(spdlog::level::warn);
  }
  const SystemClock clock;
  App app;
  app.clock = &clock;
  app.data_dir = fs::absolute(options.data_dir);
  app.started_at = clock.now().wall;
  app.has_local = config.local || config.kubernetes.empty();
  app.hot = config.hot_tier.host_path.empty() ? (app.data_dir / "hot").string()
                                              : config.hot_tier.host_path;
  std::string attempt_key;
  QUAD_ASSIGN(auto records, open_records(app, options.accept_lost_records, attempt_key));
  const auto store = std::make_unique<TimedStore>(std::move(records), app.commit_seconds);
  app.store = store.get();
  QUAD_TRY(make_folders(app.data_dir / "blobs", 0700));
  QUAD_TRY(make_folders(app.data_dir / "logs", 0700));
  app.upload_room.free = [folder = app.data_dir] { return free_bytes(folder); };
  if (const std::size_t swept = sweep_uploads(app.data_dir / "blobs"); swept > 0) {
    spdlog::info("{} uploads that the last server did not bring to their end are removed", swept);
  }
  QUAD_ASSIGN(const std::string socket, socket_path(app.data_dir));
  const bool own = config.tls.certificate.empty() && !config::is_loopback(config.listen);
  if (own) {
    QUAD_ASSIGN(config.tls, own_certificate(app.data_dir, names_of(config), clock.now().wall));
  }
  app.jobs = config.jobs;
  app.logs = std::make_unique<LogStore>(app.data_dir / "logs");

  forbid_core_dumps();
  const std::uint64_t open_files = raise_open_files();
  net::ServerOptions http_options;
  bound_connections(http_options);
  // The routes that take more say so.
  http_options.body_limit = 64U << 10U;
  app.most_streams = std::max<std::size_t>(http_options.max_connections / 2, 4);
  http_options.on_access = [&app](const net::AccessRecord& access) {
    ++app.answers[access.status / 100];
    app.request_seconds.record(static_cast<double>(access.duration.count()) / 1e6);
  };
  http_options.on_fault = [](std::string_view what) {
    spdlog::error("a request failed: {}", what);
  };
  net::HttpServer http(app.io, make_routes(app), http_options);
  app.http = &http;
  QUAD_ASSIGN(const std::uint16_t port, listen(http, config, app.data_dir));
  const std::string listened =
      fmt::format("{}://{}:{}", config.tls.certificate.empty() ? "http" : "https",
                  own_host(config.listen), port);
  app.url = config.url.empty() ? listened : config.url;

  EngineContext context;
  context.data_dir = app.data_dir;
  context.hot = app.hot;
  context.runner = options.runner;
  context.local_url = runners_url(config, listened, socket);
  context.url = app.url;
  context.server_id = sha256_hex("server " + attempt_key).substr(0, 8);
  context.holder = this_server(app.data_dir);
  context.open_files = open_files;
  context.secret_key = app.secret_key;
  context.body_of = [&store = *store](const job::Job& job) { return store::body_of(store, job); };
  QUAD_ASSIGN(auto machines, make_engines(config, context, clock));
  const auto engine = engine::with_clusters(std::move(machines), holders(app));
  for (const config::Kubernetes& cluster : config.kubernetes) {
    app.clusters.push_back(cluster.name);
  }
  app.manifests = [&](const std::shared_ptr<const job::Job>& job) {
    const NodeId& node = job->attempts.back().ranks.front().holding.node;
    return manifests_of(config, context, engine->engine_of(node), job);
  };
  app.check = [&] { return check_engines(config, context, clock); };
  QUAD_ASSIGN(app.pods, pod_settings(config, context));
  app.hot_of = [&](const NodeId& node) {
    return hot_folder(config, context, engine->engine_of(machine_of(app, node)));
  };

  control::Options control_options;
  control_options.attempt_key = attempt_key;
  control_options.node_lost_after = config.node_lost_after;
  control_options.suspect_after = config.suspect_after;
  control_options.strict_lease = config.strict_lease;
  control_options.active_per_user = config.jobs.limits.active_per_user;
  control::Control control(control_options, *store, *engine, plan::make_fifo(), clock);
  app.control = &control;
  control.on_commit([&app](const std::shared_ptr<const control::Snapshot>& /*snapshot*/,
                           const std::vector<job::Event>& events) {
    asio::post(app.io, [&app, events] { take_commit(app, events); });
  });

  QUAD_TRY(control.start(runner_orders(app)));
  QUAD_TRY(http.listen_unix(socket));
  app.newest = control.snapshot()->revision;
  load_tokens(app);
  QUAD_TRY(first_token(app));
  QUAD_TRY(write_file_atomically(
      app.data_dir / "server.json",
      to_pretty_text(json::object{{"url", listened},
                                  {"public_url", app.url},
                                  {"ca", own ? config.tls.ca : std::string()},
                                  {"socket", socket},
                                  {"pid", ::getpid()},
                                  {"version", QUAD_VERSION},
                                  {"started_at", format_rfc3339(app.started_at)}}),
      0600));
  spdlog::info("Quad {} serves {} (data in {})", QUAD_VERSION, listened, app.data_dir.string());

  CertificateWatch certificate(
      config.tls,
      own ? [&](WallTime now) {
        const auto renewed = own_certificate(app.data_dir, names_of(config), now);
        return renewed.ok() ? Status() : Status(renewed.error());
      } : CertificateWatch::Renew(),
      [&](const config::Tls& files) {
        return http.use_certificate({files.certificate, files.key});
      });
  asio::steady_timer certificate_timer(app.io);
  if (!config.tls.certificate.empty()) {
    look_after_certificate(certificate_timer, certificate, app);
  }

  asio::steady_timer socket_timer(app.io);
  look_after_socket(socket_timer, http, socket);

  asio::signal_set signals(app.io, SIGTERM, SIGINT);
  signals.async_wait([&](const boost::system::error_code& failure, int /*signal*/) {
    if (failure) {
      return;
    }
    spdlog::info("stopping; jobs run on, and the next server on this data directory finds them");
    app.stopping = true;
    certificate_timer.cancel();
    socket_timer.cancel();
    wake_streams(app);
    http.stop(kStopGrace);
  });
  // Starting took memory that running does not need.
  ::malloc_trim(0);
  app.work = std::make_unique<WorkPool>(usual_work_bounds());
  app.io.run();
  app.work.reset();  // what is under way there uses control
  control.stop();
  return {};
}

}  // namespace quad::server
