#include "cli/client.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <pwd.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <thread>

#include "base/file.h"
#include "base/text.h"
#include "cli/output.h"
#include "server/server.h"

namespace quad::cli {

namespace fs = std::filesystem;

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

Result<net::HttpClient> client_for(const std::string& url, const Globals& globals,
                                   const std::string& token, std::optional<Millis> patience = {}) {
  net::ClientOptions options;
  options.read_timeout = patience.value_or(options.read_timeout);
  options.url = url;
  options.ca_file = globals.ca.empty() ? variable("QUAD_CA") : globals.ca;
  if (options.ca_file.empty() && url.starts_with("https://")) {
    // A server of this data directory, whose certificate is its own.
    const auto own = server::read_endpoint(data_dir_of(globals));
    if (own.ok() && (url == own->url || url == own->public_url)) {
      options.ca_file = own->ca;
    }
  }
  options.headers.emplace_back("User-Agent", "quad/" QUAD_VERSION);
  if (!token.empty()) {
    options.headers.emplace_back("Authorization", "Bearer " + token);
  }
  return net::HttpClient::create(std::move(options));
}

}  // namespace

fs::path data_dir_of(const Globals& globals) {
  if (!globals.data_dir.empty()) {
    return fs::absolute(globals.data_dir);
  }
  if (const std::string given = variable("QUAD_DATA_DIR"); !given.empty()) {
    return fs::absolute(given);
  }
  std::string home = variable("HOME");
  if (home.empty()) {
    const passwd* entry = ::getpwuid(::geteuid());
    home = entry == nullptr ? "/tmp" : entry->pw_dir;
  }
  return fs::path(home) / ".quad";
}

std::string not_as_promised(std::string_view what) {
  return fmt::format("The server sent no list of {}, as a Quad server of this version does", what);
}

Result<Client> Client::connect(const Globals& globals, bool may_start,
                               std::optional<Millis> patience) {
  const std::string server = globals.server.empty() ? variable("QUAD_SERVER") : globals.server;
  const std::string token = globals.token.empty() ? variable("QUAD_TOKEN") : globals.token;
  if (!server.empty()) {
    QUAD_ASSIGN(net::HttpClient http, client_for(server, globals, token, patience));
    return Client(std::move(http));
  }
  const fs::path data_dir = data_dir_of(globals);
  for (int round = 0; round < 2; ++round) {
    if (const auto endpoint = server::read_endpoint(data_dir); endpoint.ok()) {
      QUAD_ASSIGN(net::HttpClient http,
                  client_for("unix:" + endpoint->socket, globals, token, patience));
      if (const auto answer = http.get("/healthz"); answer.ok()) {
        return Client(std::move(http));
      }
    }
    if (round == 0 && may_start) {
      QUAD_TRY(start_server(globals));
    } else {
      break;
    }
  }
  return error(
      ErrorCode::kUnavailable,
      fmt::format("No Quad server runs on {}; 'quad api start' starts one", data_dir.string()));
}

Result<json::object> Client::read(const Result<net::ClientResponse>& response) {
  if (!response.ok()) {
    return response.error();
  }
  if (!response->ok()) {
    return response->to_error();
  }
  auto answer = parse_json_object(response->body);
  if (!answer.ok()) {  // which is not the fault of what was asked
    return error(ErrorCode::kInternal,
                 fmt::format("The server sent what no Quad server of this version does: {}",
                             answer.error().message));
  }
  return answer;
}

namespace {

/// Asks again for as long as the server says that it has too much to do, and when to come back: it
/// has done nothing of what was asked then.
Result<net::ClientResponse> patiently(const std::function<Result<net::ClientResponse>()>& ask) {
  constexpr int kTries = 30;
  constexpr std::int64_t kLongestPause = 10;
  for (int i = 1;; ++i) {
    auto answer = ask();
    const bool busy = answer.ok() && (answer->status == 429 || answer->status == 503);
    const auto after = busy ? answer->header("Retry-After") : std::nullopt;
    const auto seconds = after ? parse_number(*after) : std::nullopt;
    if (!seconds || i == kTries) {
      return answer;
    }
    std::this_thread::sleep_for(
        std::chrono::seconds(std::clamp<std::int64_t>(*seconds, 1, kLongestPause)));
  }
}

}  // namespace

Result<json::object> Client::get(const std::string& target) {
  return read(patiently([&] { return http_.get(target); }));
}

Result<json::object> Client::get_list(const std::string& target, std::string_view key) {
  QUAD_ASSIGN(json::object answer, get(target));
  const json::array* list = get_array(answer, key);
  if (list == nullptr || !std::all_of(list->begin(), list->end(),
                                      [](const json::value& one) { return one.is_object(); })) {
    return error(ErrorCode::kInternal, not_as_promised(key));
  }
  return answer;
}

Result<json::object> Client::post(const std::string& target, const json::object& body,
                                  json::object* refused) {
  const std::string text = to_text(body);
  auto response = patiently([&] { return http_.post(target, text); });
  if (refused != nullptr && response.ok() && !response->ok()) {
    const auto answer = parse_json_object(response->body);
    if (const json::object* inner = answer.ok() ? get_object(*answer, "error") : nullptr) {
      *refused = *inner;
    }
  }
  return read(response);
}

Result<json::object> Client::remove(const std::string& target) {
  return read(http_.request("DELETE", target));
}

Millis upload_patience(std::uint64_t bytes) {
  constexpr Millis kLeast{60'000};
  constexpr std::uint64_t kSlowDisk = 20'000;  // bytes in a millisecond
  return kLeast + Millis(static_cast<std::int64_t>(bytes / kSlowDisk));
}

Status Client::upload(const std::string& hash, int file) {
  const std::string target = "/v1/blobs/" + hash;
  struct stat info {};
  if (::fstat(file, &info) != 0) {
    return errno_error("Cannot read what was packed", errno);
  }
  const Millis patience = upload_patience(static_cast<std::uint64_t>(info.st_size));
  const net::ChunkSink no_body = [](std::string_view /*piece*/) { return true; };
  QUAD_ASSIGN(const net::ClientResponse known,
              patiently([&] { return http_.stream("HEAD", target, no_body, patience); }));
  if (known.status == 200) {
    return {};
  }
  QUAD_ASSIGN(
      const net::ClientResponse answer, patiently([&] {
        (void)::lseek(file, 0, SEEK_SET);
        return http_.upload("PUT", target, file, {{"Content-Type", "application/zstd"}}, patience);
      }));
  return answer.ok() ? Status() : Status(answer.to_error());
}

Result<std::unique_ptr<net::ClientStream>> Client::upgrade(const std::string& target,
                                                           std::string_view protocol) {
  QUAD_ASSIGN(net::UpgradeResult answer, http_.upgrade(target, protocol));
  if (answer.stream == nullptr) {
    return answer.response.to_error();
  }
  return std::move(answer.stream);
}

Status Client::stream(const std::string& target, const net::ChunkSink& sink, Millis silence,
                      const net::Headers& headers) {
  QUAD_ASSIGN(const net::ClientResponse answer,
              http_.stream("GET", target, sink, silence, {}, headers));
  return answer.ok() ? Status() : Status(answer.to_error());
}

namespace {

/// Only the directory's owner starts a server there: another's files in it would be in the owner's
/// way.
Status check_owner(const fs::path& data_dir) {
  struct stat info {};
  if (::stat(data_dir.c_str(), &info) != 0) {
    return errno_error(fmt::format("Cannot use the data directory {}", data_dir.string()), errno);
  }
  if (info.st_uid == ::geteuid()) {
    return {};
  }
  const passwd* owner = ::getpwuid(info.st_uid);
  return error(
      ErrorCode::kDenied,
      fmt::format(
          "The data directory {} belongs to {}; name their server with --server and a token in "
          "QUAD_TOKEN, or a directory of your own with --data-dir",
          data_dir.string(),
          owner == nullptr ? fmt::format("user {}", info.st_uid) : owner->pw_name));
}

bool answers(const Globals& globals, const fs::path& data_dir) {
  const auto endpoint = server::read_endpoint(data_dir);
  if (!endpoint.ok()) {
    return false;
  }
  auto http = client_for("unix:" + endpoint->socket, globals, "");
  return http.ok() && http->get("/healthz").ok();
}

/// `quad serve` in a session of its own, so that a Ctrl-C here is not for it.
Result<pid_t> spawn_server(const fs::path& data_dir, const std::string& log) {
  std::error_code failure;
  std::string program = fs::read_symlink("/proc/self/exe", failure).string();
  std::string folder = data_dir.string();
  std::string serve = "serve";
  std::string flag = "--data-dir";
  char* const arguments[] = {program.data(), serve.data(), flag.data(), folder.data(), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  posix_spawn_file_actions_addclosefrom_np(&actions, 3);
  posix_spawnattr_setflags(&attributes, static_cast<short>(POSIX_SPAWN_SETSID));
  pid_t pid = 0;
  const int code = posix_spawn(&pid, program.c_str(), &actions, &attributes, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (code != 0) {
    return errno_error(fmt::format("Cannot start {}", program), code);
  }
  return pid;
}

}  // namespace

Status start_server(const Globals& globals) {
  const fs::path data_dir = data_dir_of(globals);
  Status usable = make_folders(data_dir, 0700);
  usable = usable.ok() ? check_owner(data_dir) : usable;
  UniqueFd lock;
  if (usable.ok()) {
    lock.reset(::open((data_dir / "start.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    usable =
        lock ? Status()
             : errno_error(fmt::format("Cannot write in the data directory {}", data_dir.string()),
                           errno);
  }
  if (!usable.ok()) {
    return error(ErrorCode::kUnavailable,
                 fmt::format("No server can be started. {}", usable.error().message));
  }
  while (::flock(lock.get(), LOCK_EX) != 0 && errno == EINTR) {
  }
  if (answers(globals, data_dir)) {
    return {};  // another call was faster
  }
  const std::string log = (data_dir / "server.log").string();
  if (const UniqueFd writable(::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
      !writable) {
    return error(
        ErrorCode::kUnavailable,
        errno_error(fmt::format("No server can be started, as {} cannot be written to", log), errno)
            .message);
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  pid_t pid = 0;
  for (int i = 0; std::chrono::steady_clock::now() < deadline; ++i) {
    if (pid == 0) {
      QUAD_ASSIGN(pid, spawn_server(data_dir, log));
    }
    if (answers(globals, data_dir)) {
      return {};
    }
    int status = 0;
    if (::waitpid(pid, &status, WNOHANG) == pid) {
      const std::string text = read_file(log).value_or("");
      const std::string_view all = trim(text);
      const std::size_t newline = all.rfind('\n');
      std::string_view last = newline == std::string_view::npos ? all : all.substr(newline + 1);
      last.remove_prefix(last.starts_with("error: ") ? 7 : 0);
      if (!WIFEXITED(status) || WEXITSTATUS(status) != kExists) {
        return error(ErrorCode::kUnavailable, fmt::format("The server could not start: {}", last));
      }
      // Another server has the directory: one that is just starting, or that has been told to stop
      // and is not yet gone.
      pid = 0;
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(i < 50 ? 5 : 20));
  }
  return error(ErrorCode::kTimeout,
               fmt::format("The server on {} does not answer; see {}", data_dir.string(), log));
}

}  // namespace quad::cli
