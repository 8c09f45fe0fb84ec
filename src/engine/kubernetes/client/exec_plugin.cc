#include "engine/kubernetes/client/exec_plugin.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <system_error>

#include "base/base64.h"
#include "base/json.h"
#include "base/text.h"

extern char** environ;  // NOLINT(readability-redundant-declaration)

namespace quad::kubernetes {

namespace {

constexpr std::size_t kMostOutput = 1U << 20U;
constexpr std::size_t kMostShown = 400;

Error refuse(ErrorCode code, const ExecPlugin& plugin, std::string_view why) {
  return error(code, fmt::format("The credential plugin '{}' {}.", plugin.command, why),
               plugin.command);
}

/// The program's environment and arguments, in the form that exec wants.
std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> out;
  out.reserve(texts.size() + 1);
  for (auto& text : texts) {
    out.push_back(text.data());
  }
  out.push_back(nullptr);
  return out;
}

std::string exec_info(const ExecPlugin& plugin, const ClusterAccess& cluster) {
  json::object spec{{"interactive", false}};
  if (plugin.provide_cluster_info) {
    json::object about{{"server", cluster.server}, {"insecure-skip-tls-verify", !cluster.verify}};
    if (!cluster.ca_pem.empty()) {
      about["certificate-authority-data"] = base64_encode(cluster.ca_pem);
    }
    if (!cluster.tls_server_name.empty()) {
      about["tls-server-name"] = cluster.tls_server_name;
    }
    if (!cluster.proxy.empty()) {
      about["proxy-url"] = cluster.proxy;
    }
    spec["cluster"] = std::move(about);
  }
  return to_text(json::object{
      {"kind", "ExecCredential"}, {"apiVersion", plugin.api_version}, {"spec", std::move(spec)}});
}

std::vector<std::string> environment_of(const ExecPlugin& plugin, const ClusterAccess& cluster) {
  auto own = plugin.env;
  own.emplace_back("KUBERNETES_EXEC_INFO", exec_info(plugin, cluster));
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const auto name = text.substr(0, text.find('='));
    if (std::none_of(own.begin(), own.end(),
                     [&](const auto& pair) { return pair.first == name; })) {
      all.emplace_back(text);
    }
  }
  for (const auto& [name, value] : own) {
    all.push_back(fmt::format("{}={}", name, value));
  }
  return all;
}

Result<pid_t> spawn(const ExecPlugin& plugin, const ClusterAccess& cluster, int out, int err) {
  auto environment = environment_of(plugin, cluster);
  std::vector<std::string> arguments{plugin.command};
  arguments.insert(arguments.end(), plugin.args.begin(), plugin.args.end());
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&files);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, out, 1);
  posix_spawn_file_actions_adddup2(&files, err, 2);
  posix_spawn_file_actions_addclosefrom_np(&files, 3);
  sigset_t none;
  sigset_t defaults;
  sigemptyset(&none);
  sigfillset(&defaults);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  pid_t child = 0;
  const int failure = ::posix_spawnp(&child, plugin.command.c_str(), &files, &attributes,
                                     pointers(arguments).data(), pointers(environment).data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  if (failure == ENOENT) {
    return refuse(ErrorCode::kNotFound, plugin,
                  plugin.install_hint.empty()
                      ? std::string("is not installed")
                      : fmt::format("is not installed: {}", trim(plugin.install_hint)));
  }
  if (failure != 0) {
    return refuse(ErrorCode::kDenied, plugin,
                  fmt::format("cannot be run: {}", std::generic_category().message(failure)));
  }
  return child;
}

/// Takes what a pipe has; false at its end.
bool drain(int fd, std::string& into) {
  std::array<char, 16U << 10U> buffer{};
  const auto got = ::read(fd, buffer.data(), buffer.size());
  if (got > 0) {
    into.append(buffer.data(),
                std::min<std::size_t>(static_cast<std::size_t>(got),
                                      kMostOutput + 1 - std::min(into.size(), kMostOutput)));
  }
  return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

/// The end of what a program wrote to its standard error, as one line.
std::string shown(std::string_view text) {
  text = trim(text);
  if (text.size() > kMostShown) {
    text.remove_prefix(text.size() - kMostShown);
  }
  std::string line(text);
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line.empty() ? line : ": " + line;
}

/// A child that is running, and that is killed with all it started unless it was waited for.
class Child {
 public:
  explicit Child(pid_t pid)
      : pid_(pid), exit_(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))) {}
  ~Child() {
    if (pid_ > 0) {
      ::kill(-pid_, SIGKILL);
      wait();
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// Readable once it has ended; -1 where the kernel has no such descriptors.
  [[nodiscard]] int exit_fd() const { return exit_.get(); }
  int wait() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = 0;
    return status;
  }

 private:
  pid_t pid_;
  UniqueFd exit_;
};

}  // namespace

Result<PluginCredential> read_plugin_output(const ExecPlugin& plugin, std::string_view output) {
  const auto refused = [&](std::string_view why) {
    return refuse(ErrorCode::kDenied, plugin, fmt::format("printed {}", why));
  };
  const auto parsed = parse_json_object(output);
  if (!parsed.ok()) {
    return refused(trim(output).empty() ? "nothing" : "no ExecCredential in JSON");
  }
  if (get_string(*parsed, "kind") != "ExecCredential") {
    return refused(
        fmt::format("an object of kind '{}', not an ExecCredential", get_string(*parsed, "kind")));
  }
  if (get_string(*parsed, "apiVersion") != plugin.api_version) {
    return refused(fmt::format("an ExecCredential of {}, but the kubeconfig asks for {}",
                               get_string(*parsed, "apiVersion"), plugin.api_version));
  }
  const auto* status = get_object(*parsed, "status");
  PluginCredential credential;
  if (status != nullptr) {
    credential.token = get_string(*status, "token");
    credential.certificate_pem = get_string(*status, "clientCertificateData");
    credential.key_pem = get_string(*status, "clientKeyData");
  }
  if (credential.token.empty() && credential.certificate_pem.empty()) {
    return refused("an ExecCredential with neither a token nor a certificate");
  }
  if (credential.certificate_pem.empty() != credential.key_pem.empty()) {
    return refused("a certificate without its key, or a key without its certificate");
  }
  if (const auto text = get_string(*status, "expirationTimestamp"); !text.empty()) {
    const auto expires = parse_rfc3339(text);
    if (!expires.ok()) {
      return refused(fmt::format("an expirationTimestamp that is no time: '{}'", text));
    }
    credential.expires = *expires;
  }
  return credential;
}

Result<PluginCredential> run_plugin(const ExecPlugin& plugin, const ClusterAccess& cluster,
                                    Millis timeout, const net::Cancel& cancel) {
  QUAD_ASSIGN(auto out, make_pipe());
  QUAD_ASSIGN(auto err, make_pipe());
  QUAD_ASSIGN(const pid_t pid, spawn(plugin, cluster, out.write.get(), err.write.get()));
  Child child(pid);
  out.write.reset();
  err.write.reset();
  for (const int fd : {out.read.get(), err.read.get()}) {
    ::fcntl(fd, F_SETFL, O_NONBLOCK);
  }
  std::string output;
  std::string complaints;
  std::array<pollfd, 4> waiting{pollfd{out.read.get(), POLLIN, 0},
                                pollfd{err.read.get(), POLLIN, 0},
                                pollfd{child.exit_fd(), POLLIN, 0}, pollfd{cancel.fd(), POLLIN, 0}};
  const SystemClock clock;
  const auto until = clock.now().mono + timeout;
  // Until it ends, or (without a descriptor for that) until nobody can write any more.
  bool ended = false;
  while (!ended && (waiting[0].fd >= 0 || waiting[1].fd >= 0 || waiting[2].fd >= 0)) {
    const auto left = (until - clock.now().mono).count();
    if (left <= 0) {
      return refuse(ErrorCode::kTimeout, plugin,
                    fmt::format("gave no credential within {}{}", format_duration(timeout),
                                shown(complaints)));
    }
    if (::poll(waiting.data(), waiting.size(), static_cast<int>(left)) < 0 && errno != EINTR) {
      return errno_error("Cannot wait for the credential plugin '" + plugin.command + "'", errno);
    }
    if (cancel.cancelled()) {
      return refuse(ErrorCode::kUnavailable, plugin, "was given up, as asked");
    }
    ended = waiting[2].revents != 0;
    for (auto& [entry, into] : {std::pair<pollfd*, std::string*>{&waiting[0], &output},
                                std::pair<pollfd*, std::string*>{&waiting[1], &complaints}}) {
      if (entry->fd >= 0 && (entry->revents != 0 || ended) && !drain(entry->fd, *into)) {
        entry->fd = -1;
      }
    }
    if (output.size() > kMostOutput || complaints.size() > kMostOutput) {
      return refuse(ErrorCode::kDenied, plugin, "printed more than 1 MiB");
    }
  }
  // What it wrote last is still in the pipes, which its own children may hold open.
  while (waiting[0].fd >= 0 && output.size() <= kMostOutput) {
    const auto before = output.size();
    if (!drain(waiting[0].fd, output) || output.size() == before) {
      break;
    }
  }
  const int status = child.wait();
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return refuse(
        ErrorCode::kDenied, plugin,
        WIFEXITED(status)
            ? fmt::format("failed with exit code {}{}", WEXITSTATUS(status), shown(complaints))
            : fmt::format("was killed by signal {}{}", WTERMSIG(status), shown(complaints)));
  }
  return read_plugin_output(plugin, output);
}

}  // namespace quad::kubernetes
