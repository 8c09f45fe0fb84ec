// The real quad-runner over TLS and a name, and its mounts.

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <thread>

#include "base/text.h"
#include "runner/fake_server.h"
#include "runner/mounts.h"

namespace quad::runner::testing {
namespace {

namespace fs = std::filesystem;

bool run(const std::string& command) {
  return std::system((command + " >/dev/null 2>&1").c_str()) == 0;
}

// A blob's name.
std::string sha256_hex(std::string_view bytes) {
  unsigned char sum[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_Digest(bytes.data(), bytes.size(), sum, &size, EVP_sha256(), nullptr);
  return to_hex({reinterpret_cast<const char*>(sum), size});
}

// Ends TLS and passes the bytes on to the fake server's socket, one connection a child.
class TlsRelay {
 public:
  TlsRelay(const fs::path& certificate, const fs::path& key, const fs::path& socket) {
    const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    (void)::bind(listener, reinterpret_cast<sockaddr*>(&address), size);
    (void)::listen(listener, 16);
    ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::signal(SIGCHLD, SIG_IGN);
      for (;;) {
        const int fd = ::accept(listener, nullptr, nullptr);
        if (::fork() == 0) {
          ::prctl(PR_SET_PDEATHSIG, SIGKILL);
          relay(fd, certificate, key, socket);
          ::_exit(0);
        }
        ::close(fd);
      }
    }
    ::close(listener);
  }
  ~TlsRelay() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  [[nodiscard]] int port() const { return port_; }

 private:
  static void relay(int fd, const fs::path& certificate, const fs::path& key,
                    const fs::path& socket) {
    SSL_CTX* context = SSL_CTX_new(TLS_server_method());
    SSL_CTX_use_certificate_file(context, certificate.c_str(), SSL_FILETYPE_PEM);
    SSL_CTX_use_PrivateKey_file(context, key.c_str(), SSL_FILETYPE_PEM);
    SSL* ssl = SSL_new(context);
    SSL_set_fd(ssl, fd);
    if (SSL_accept(ssl) != 1) {
      return;
    }
    const int plain = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, socket.c_str(), sizeof address.sun_path - 1);
    if (::connect(plain, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      return;
    }
    char buffer[65536];
    for (;;) {
      pollfd polled[2] = {{fd, POLLIN, 0}, {plain, POLLIN, 0}};
      if (SSL_pending(ssl) == 0 && ::poll(polled, 2, -1) < 0) {
        return;
      }
      if (SSL_pending(ssl) > 0 || polled[0].revents != 0) {
        const int got = SSL_read(ssl, buffer, sizeof buffer);
        if (got <= 0 || !write_all(plain, {buffer, static_cast<std::size_t>(got)}).ok()) {
          return;
        }
      }
      if (polled[1].revents != 0) {
        const ssize_t got = ::read(plain, buffer, sizeof buffer);
        if (got <= 0 || SSL_write(ssl, buffer, static_cast<int>(got)) <= 0) {
          SSL_shutdown(ssl);
          return;
        }
      }
    }
  }

  int port_ = 0;
  pid_t pid_ = 0;
};

class Network : public ::testing::Test {
 protected:
  Network() : root_(fs::temp_directory_path() / ("quad-network-" + random_hex(6))) {
    fs::create_directories(root_);
  }
  ~Network() override {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }
  fs::path socket() const { return root_ / "quad.sock"; }
  fs::path folder() const { return root_ / "17-1-0"; }
  json::object order(std::string_view run) const {
    return {{"type", "order"}, {"num_ranks", 1}, {"ips", {"127.0.0.1"}}, {"run", run}};
  }
  // A certificate of its own for `localhost` and 127.0.0.1.
  bool make_certificate(const std::string& name) const {
    return run(fmt::format(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext "
        "subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {0}/{1}.key -out {0}/{1}.pem",
        root_.string(), name));
  }

  fs::path root_;
};

TEST_F(Network, ARankRunsOverTlsByNameAndByAddress) {
  if (!make_certificate("server")) {
    GTEST_SKIP() << "there is no openssl program";
  }
  FakeServer server(socket());
  server.order = order("head -c 20000000 /dev/zero | tr '\\0' 'x'");
  const TlsRelay relay(root_ / "server.pem", root_ / "server.key", socket());
  for (const char* host : {"127.0.0.1", "localhost"}) {
    RunnerProcess::Options options;
    options.server = fmt::format("https://{}:{}", host, relay.port());
    options.ca = (root_ / "server.pem").string();
    server.output.clear();
    server.messages.clear();
    server.forget();
    RunnerProcess runner(root_ / host, socket(), options);
    ASSERT_TRUE(server.until([&] { return runner.ended(); }, 30)) << host;
    EXPECT_EQ(server.output.size(), 20'000'000U);
    EXPECT_EQ(server.faults, std::vector<std::string>());
  }
}

TEST_F(Network, AServerThatCannotProveItselfGetsNoToken) {
  if (!make_certificate("server") || !make_certificate("other")) {
    GTEST_SKIP() << "there is no openssl program";
  }
  FakeServer server(socket());
  server.order = order("echo hi");
  const TlsRelay relay(root_ / "server.pem", root_ / "server.key", socket());
  RunnerProcess::Options options;
  options.server = fmt::format("https://127.0.0.1:{}", relay.port());
  options.ca = (root_ / "other.pem").string();
  RunnerProcess runner(folder(), socket(), options);
  EXPECT_TRUE(server.until([&] {
    std::ifstream file(folder() / "runner.log");
    const std::string log((std::istreambuf_iterator<char>(file)), {});
    return log.find("certificate") != std::string::npos;
  }));
  EXPECT_TRUE(server.tokens.empty());
}

TEST_F(Network, TheWorkdirAndMountsAreThereBeforeSetup) {
  fs::create_directories(root_ / "source/sub");
  std::ofstream(root_ / "source/train.py") << "print(1)\n";
  std::ofstream(root_ / "source/sub/x") << "x\n";
  if (!run(fmt::format("tar -C {0}/source --zstd -cf {0}/blob.tar.zst .", root_.string()))) {
    GTEST_SKIP() << "there is no tar with zstd";
  }
  std::ifstream file(root_ / "blob.tar.zst", std::ios::binary);
  FakeServer server(socket());
  const std::string blob((std::istreambuf_iterator<char>(file)), {});
  const std::string hash = sha256_hex(blob);
  server.blobs[hash] = blob;
  json::object wanted = order("ls; cat ~/data/sub/x");
  wanted["setup"] = "test -f train.py";
  wanted["workdir"] = {{"blob", hash}};
  wanted["mounts"] = json::array{json::object{{"dst", "~/data"}, {"kind", "blob"}, {"blob", hash}}};
  server.order = wanted;
  server.blob_refusals = 2;  // a server that is just starting up
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(server.output, "sub\ntrain.py\nx\n") << get_string(*server.find("exited"), "detail");
}

TEST_F(Network, ADownloadThatCannotTakeItsPlaceLeavesNothingBehind) {
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size);
  std::thread web([&] {
    const UniqueFd connection(::accept(listener.get(), nullptr, nullptr));
    char request[4096];
    (void)::recv(connection.get(), request, sizeof request, 0);
    (void)write_all(connection.get(), "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
  });
  fs::create_directories(root_ / "mounts/taken/by-a-folder");
  std::ofstream(root_ / "mounts/taken/by-a-folder/file") << "x";
  Mount mount;
  mount.kind = Mount::Kind::kHttp;
  mount.dst = (root_ / "mounts/taken").string();
  mount.url = fmt::format("http://127.0.0.1:{}/x", ntohs(address.sin_port));
  fs::create_directories(root_ / "lists");
  const UniqueFd lists(::open((root_ / "lists").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  std::vector<std::string> notes;
  const Status brought = bring(mount, Order{}, {"1-1-0", root_ / "home", lists.get(), -1}, notes);
  web.join();
  ASSERT_FALSE(brought.ok());
  EXPECT_NE(brought.error().message.find("is a folder there in which tasks have written"),
            std::string::npos)
      << brought.error().message;
  const fs::directory_iterator left(root_ / "mounts");
  EXPECT_EQ(std::distance(begin(left), end(left)), 1);
}

TEST_F(Network, ABlobThatIsNotWhatItsNameSaysIsRefused) {
  FakeServer server(socket());
  server.blobs[sha256_hex("the whole archive")] = "";  // which is an archive too: one of nothing
  json::object wanted = order("true");
  wanted["workdir"] = {{"blob", sha256_hex("the whole archive")}};
  server.order = wanted;
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(get_string(*server.find("exited"), "detail"),
            "The mount ~/sky_workdir cannot be brought: the server's copy of it is damaged; launch "
            "it again, which "
            "uploads it anew");
}

TEST_F(Network, AGitRepositoryIsClonedAtItsRef) {
  const std::string git =
      fmt::format("git -C {}/repo -c user.name=a -c user.email=a@b ", root_.string());
  fs::create_directories(root_ / "repo");
  const auto write = [&](std::string_view text) {
    std::ofstream(root_ / "repo/f") << text;
    return true;
  };
  if (!run(git + "init -q") || !write("1\n") || !run(git + "add f") ||
      !run(git + "commit -qm one") || !run(git + "tag v1") || !write("2\n") ||
      !run(git + "commit -qam two")) {
    GTEST_SKIP() << "there is no git";
  }
  FakeServer server(socket());
  json::object wanted = order("cat f ~/newest/f");
  wanted["workdir"] = {{"git", (root_ / "repo").string()}, {"ref", "v1"}};
  wanted["mounts"] = json::array{
      json::object{{"dst", "~/newest"}, {"kind", "git"}, {"url", (root_ / "repo").string()}}};
  server.order = wanted;
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  EXPECT_EQ(server.output, "1\n2\n") << get_string(*server.find("exited"), "detail");
}

TEST_F(Network, AGitRefThatIsNotThereIsASentence) {
  FakeServer server(socket());
  json::object wanted = order("true");
  wanted["workdir"] = {{"git", (root_ / "nothing").string()}, {"ref", "v1"}};
  server.order = wanted;
  RunnerProcess runner(folder(), socket(), {});
  ASSERT_TRUE(server.until([&] { return runner.ended(); }));
  const std::string detail(get_string(*server.find("exited"), "detail"));
  EXPECT_NE(detail.find("The mount ~/sky_workdir cannot be brought: git"), std::string::npos)
      << detail;
}

}  // namespace
}  // namespace quad::runner::testing
