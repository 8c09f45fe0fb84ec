#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "runner/fake_server.h"

namespace quad::runner::testing {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

FakeServer::FakeServer(fs::path socket) : path_(std::move(socket)) {
  ::unlink(path_.c_str());
  listener_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path_.c_str(), sizeof address.sun_path - 1);
  QUAD_CHECK(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0,
             "the test's socket cannot be bound");
  ::chmod(path_.c_str(), 0777);
  ::listen(listener_.get(), 64);
  go = {
      {"type", "go"}, {"ips", {"127.0.0.1"}}, {"master_addr", "127.0.0.1"}, {"master_port", 4321}};
}

FakeServer::~FakeServer() {
  ::unlink(path_.c_str());
}

bool FakeServer::until(const std::function<bool()>& happened, double seconds) {
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  while (!happened()) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) {
      return false;
    }
    pollfd polled[2] = {{listener_.get(), POLLIN, 0},
                        {reading ? connection_.get() : -1, POLLIN, 0}};
    // Ten milliseconds at most, since what is waited for may be the end of a process.
    ::poll(polled, 2, static_cast<int>(std::min<long>(left, 10)));
    if (polled[1].revents != 0) {
      receive();
    }
    if (polled[0].revents != 0 && (!connection_ || !upgraded_)) {
      accept_one();
    } else if (polled[0].revents != 0) {
      accept_one();  // a newer connection, or a request for a blob
    }
  }
  return true;
}

void FakeServer::accept_one() {
  UniqueFd fresh(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!fresh) {
    return;
  }
  std::string request;
  char buffer[4096];
  while (request.find("\r\n\r\n") == std::string::npos) {
    const ssize_t got = ::recv(fresh.get(), buffer, sizeof buffer, 0);
    if (got <= 0) {
      return;
    }
    request.append(buffer, static_cast<std::size_t>(got));
  }
  if (const std::size_t at = request.find("Bearer "); at != std::string::npos) {
    tokens.insert(request.substr(at + 7, request.find('\r', at) - at - 7));
  }
  const std::string blob_prefix = "GET /v1/blobs/";
  if (request.starts_with(blob_prefix)) {
    const std::string hash = request.substr(
        blob_prefix.size(), request.find(' ', blob_prefix.size()) - blob_prefix.size());
    if (blob_refusals > 0) {
      --blob_refusals;
      (void)write_all(fresh.get(), "HTTP/1.1 503 Wait\r\nContent-Length: 0\r\n\r\n");
      return;
    }
    const auto blob = blobs.find(hash);
    const std::string reply =
        blob == blobs.end()
            ? "HTTP/1.1 404 Not Found\r\nContent-Length: 22\r\n\r\n{\"error\":\"no such blob\"}"
            : fmt::format("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", blob->second.size(),
                          blob->second);
    (void)write_all(fresh.get(), reply);
    return;
  }
  ++connections;
  if (answer != 101) {
    (void)write_all(fresh.get(),
                    fmt::format("HTTP/1.1 {} No\r\nContent-Length: 2\r\n\r\n{{}}", answer));
    return;
  }
  if (const std::size_t at = request.find("nonce="); at != std::string::npos) {
    nonces.insert(request.substr(at + 6, request.find(' ', at) - at - 6));
  }
  (void)write_all(fresh.get(),
                  "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "
                  "quad-runner/1\r\n\r\n");
  connection_ = std::move(fresh);
  upgraded_ = true;
  order_sent_ = go_sent_ = bye_sent_ = false;
  reader_.reset();
  hellos.emplace_back();  // filled in by the first message
}

void FakeServer::receive() {
  char* room = reader_.room(1U << 20U);
  const ssize_t got = ::recv(connection_.get(), room, reader_.room_size(), 0);
  if (got <= 0) {
    connection_.reset();
    return;
  }
  reader_.commit(static_cast<std::size_t>(got));
  for (;;) {
    auto frame = reader_.next_view();
    if (!frame.ok()) {
      faults.push_back(frame.error().message);
      drop();
      return;
    }
    if (!frame.value().has_value()) {
      break;
    }
    take(*frame.value());
  }
  if (acknowledge_output && connection_) {
    send_bytes(encode_ack(output.size()));
  }
  const json::object* end = find("exited");
  if (end != nullptr && say_bye && !bye_sent_ && connection_ &&
      static_cast<std::int64_t>(output.size()) >= get_int(*end, "log_end")) {
    bye_sent_ = true;
    send({{"type", "bye"}});
  }
}

void FakeServer::take(const FrameView& frame) {
  if (frame.type == kLogFrame) {
    const auto chunk = decode_log(frame.payload);
    if (!chunk.ok()) {
      faults.push_back(chunk.error().message);
      return;
    }
    const auto& [offset, bytes] = chunk.value();
    if (offset > output.size()) {
      if (offset != gap_to_) {
        faults.push_back(fmt::format("output jumps from {} to {}", output.size(), offset));
      }
      output.resize(offset, '~');
    }
    const std::uint64_t known = std::min<std::uint64_t>(output.size() - offset, bytes.size());
    if (output.compare(offset, known, bytes.substr(0, known)) != 0 && gap_to_ == 0) {
      faults.push_back("output that came again differs");
    }
    doubled_bytes += known;
    output.append(bytes.substr(known));
    return;
  }
  auto message = decode_message(frame.payload);
  if (!message.ok()) {
    faults.push_back(message.error().message);
    return;
  }
  take_message(std::move(message).value());
}

void FakeServer::take_message(json::object message) {
  const std::string type(get_string(message, "type"));
  if (type == "hello") {
    if (!hellos.back().empty()) {
      faults.push_back("a second hello on one connection");
    }
    hellos.back() = message;
    if (order.has_value() && !order_sent_) {
      order_sent_ = true;
      send(*order);
    }
    if (get_string(message, "phase") == "ready" && send_go) {
      send(go);
    }
    return;
  }
  if (hellos.back().empty()) {
    faults.push_back("a message before hello");
  }
  const auto seq = static_cast<std::uint64_t>(get_int(message, "seq"));
  if (seq != 0) {
    if (seq > last_seq_ + 1) {
      faults.push_back(fmt::format("seq {} after {}", seq, last_seq_));
    }
    const bool known = seq <= last_seq_;
    last_seq_ = std::max(last_seq_, seq);
    if (acknowledge_messages) {
      send({{"type", "ack"}, {"seq", seq}});
    }
    if (known) {
      return;
    }
  }
  if (type == "gap") {
    gap_to_ = static_cast<std::uint64_t>(get_int(message, "to"));
  }
  if (type == "heartbeat" && renew_lease) {
    send({{"type", "lease"}, {"at_ms", get_int(message, "at_ms")}});
  }
  const bool ready = type == "phase" && get_string(message, "phase") == "ready";
  messages.push_back(std::move(message));
  if (ready && send_go) {
    send(go);
  }
}

void FakeServer::send(const json::object& message) {
  send_bytes(encode_message(message));
}

void FakeServer::send_bytes(std::string_view bytes) {
  while (!bytes.empty() && connection_) {
    const ssize_t put = ::send(connection_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (put <= 0) {
      connection_.reset();
      return;
    }
    bytes.remove_prefix(static_cast<std::size_t>(put));
  }
}

void FakeServer::drop() {
  connection_.reset();
}

const json::object* FakeServer::find(std::string_view type) const {
  for (const json::object& message : messages) {
    if (get_string(message, "type") == type) {
      return &message;
    }
  }
  return nullptr;
}

bool FakeServer::has_phase(std::string_view phase) const {
  return std::any_of(messages.begin(), messages.end(), [&](const json::object& message) {
    return get_string(message, "type") == "phase" && get_string(message, "phase") == phase;
  });
}

fs::path runner_program() {
  std::error_code ignored;
  return fs::read_symlink("/proc/self/exe", ignored).parent_path() / "quad-runner";
}

namespace {

// In a new mount namespace: 0, or an errno.
int enter_image(const std::string& root) {
  const auto bind = [](const std::string& from, const std::string& to, unsigned long flags = 0) {
    return ::mount(from.c_str(), to.c_str(), nullptr, MS_BIND | flags, nullptr) == 0;
  };
  const bool done =
      ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 && bind(root, root) &&
      bind(root + "/quad", root + "/quad") && bind("/dev/null", root + "/dev/null") &&
      (::access((root + "/usr").c_str(), F_OK) != 0 || bind("/usr", root + "/usr")) &&
      bind(root, root, MS_REMOUNT | MS_RDONLY) && ::chroot(root.c_str()) == 0 &&
      ::chdir("/") == 0 && ::mount("proc", "/proc", "proc", 0, nullptr) == 0 &&
      ::setgroups(0, nullptr) == 0 && ::setgid(kUnknownUser) == 0 && ::setuid(kUnknownUser) == 0;
  return done ? 0 : errno;
}

pid_t clone_into(unsigned long namespaces) {
  return static_cast<pid_t>(
      ::syscall(SYS_clone, namespaces | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
}

constexpr unsigned long kContainer = CLONE_NEWPID | CLONE_NEWNS;

}  // namespace

bool can_make_containers() {
  const pid_t child = clone_into(kContainer);
  if (child == 0) {
    ::_exit(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 ? 0 : 1);
  }
  int status = 1;
  return child > 0 && ::waitpid(child, &status, 0) == child && status == 0;
}

RunnerProcess::RunnerProcess(const fs::path& folder, const fs::path& socket,
                             const Options& options) {
  fs::create_directories(folder);
  const json::object start = {
      {"server", options.server.empty() ? "unix:" + socket.string() : options.server},
      {"ca", options.ca},
      {"token", "feedc0de"},
      {"job", 17},
      {"epoch", options.epoch},
      {"rank", options.rank},
      {"node", "here"},
      {"address", "127.0.0.1"},
      {"gpus", json::array()},
      {"gpu_env", "CUDA_VISIBLE_DEVICES"},
      {"cpu_milli", 1500},
      {"memory_bytes", options.memory_bytes},
      {"hot", ""},
      {"termination_message", options.termination_message},
      {"limits",
       {{"spool_bytes", options.spool_bytes},
        {"namespaces", options.namespaces},
        {"processes", options.processes}}}};
  QUAD_CHECK(write_file_atomically(folder / "start.json", to_text(start),
                                   options.image.empty() ? 0600 : 0644)
                 .ok(),
             "start.json cannot be written");
  constexpr uid_t kNobody = 65534;
  if (options.as_nobody) {
    for (const fs::path& path : {folder, folder / "start.json"}) {
      QUAD_CHECK(::chown(path.c_str(), kNobody, kNobody) == 0, "cannot give the folder away");
    }
  }
  // The program is opened by the test: nobody may not be able to walk to it.
  const UniqueFd program(::open(runner_program().c_str(), O_RDONLY | O_CLOEXEC));
  QUAD_CHECK(static_cast<bool>(program), "quad-runner is not beside the test program");
  pid_ = clone_into(options.image.empty() ? 0 : kContainer);
  QUAD_CHECK(pid_ >= 0, "a process cannot be started");
  if (pid_ == 0) {
    if (!options.image.empty() && enter_image(options.image) != 0) {
      ::_exit(97);
    }
    if (options.as_nobody &&
        (::setgroups(0, nullptr) != 0 || ::setgid(kNobody) != 0 || ::setuid(kNobody) != 0)) {
      ::_exit(99);
    }
    const std::string path = options.image.empty()
                                 ? folder.string()
                                 : "/" + fs::relative(folder, options.image).string();
    char* const arguments[] = {const_cast<char*>("quad-runner"), const_cast<char*>(path.c_str()),
                               nullptr};
    char* const environment[] = {const_cast<char*>("PATH=/usr/local/bin:/usr/bin:/bin"),
                                 const_cast<char*>("CUDA_VISIBLE_DEVICES=7"), nullptr};
    ::syscall(SYS_execveat, program.get(), "", arguments, environment, AT_EMPTY_PATH);
    ::_exit(98);
  }
}

RunnerProcess::~RunnerProcess() {
  if (!ended()) {
    signal(SIGKILL);
    (void)wait();
  }
}

void RunnerProcess::signal(int number) const {
  ::kill(pid_, number);
}

bool RunnerProcess::ended() {
  int status = 0;
  if (!status_.has_value() && ::waitpid(pid_, &status, WNOHANG) == pid_) {
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  return status_.has_value();
}

std::optional<int> RunnerProcess::wait(double seconds) {
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  while (!ended() && Clock::now() < deadline) {
    ::poll(nullptr, 0, 2);
  }
  return status_;
}

}  // namespace quad::runner::testing
