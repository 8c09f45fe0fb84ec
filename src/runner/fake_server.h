// runner/fake_server.h
//
// For tests: the server's end of the runner's protocol on a unix socket, driven step by step by the
// test's own thread, and a real quad-runner as its own process. Nothing here runs by itself: the
// server reads and answers only inside until().

#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "runner/protocol.h"

namespace quad::runner::testing {

class FakeServer {
 public:
  explicit FakeServer(std::filesystem::path socket);
  ~FakeServer();

  // How it behaves.
  std::optional<json::object> order;  ///< sent after hello
  bool send_go = true;                ///< once the rank is ready
  json::object go;
  bool acknowledge_output = true;
  bool acknowledge_messages = true;
  bool renew_lease = false;                  ///< answers heartbeats
  bool say_bye = true;                       ///< once exited is there and all output
  int answer = 101;                          ///< the status to upgrades
  bool reading = true;                       ///< false: bytes stay in the socket
  std::map<std::string, std::string> blobs;  ///< by hash: what GET /v1/blobs/HASH answers

  int blob_refusals = 0;  ///< so many requests for blobs are answered 503 first

  // What it has seen.
  std::string output;                  ///< the rank's, put together by offset
  std::vector<json::object> messages;  ///< in order, each seq once
  std::vector<json::object> hellos;
  std::set<std::string> nonces;
  std::set<std::string> tokens;
  std::vector<std::string> faults;  ///< what the protocol does not allow
  std::uint64_t doubled_bytes = 0;  ///< output that came again after a reconnect
  int connections = 0;

  /// Serves until `happened` is true. False after `seconds`.
  bool until(const std::function<bool()>& happened, double seconds = 20);
  void send(const json::object& message);
  void drop();                                ///< closes the connection
  void forget() { last_seq_ = gap_to_ = 0; }  ///< for another runner on the same server
  [[nodiscard]] bool connected() const { return static_cast<bool>(connection_); }

  [[nodiscard]] const json::object* find(std::string_view type) const;
  [[nodiscard]] bool has_phase(std::string_view phase) const;
  [[nodiscard]] bool exited() const { return find("exited") != nullptr; }

 private:
  void accept_one();
  void receive();
  void answer_request();
  void take(const FrameView& frame);
  void take_message(json::object message);
  void send_bytes(std::string_view bytes);

  std::filesystem::path path_;
  UniqueFd listener_;
  UniqueFd connection_;
  bool upgraded_ = false;
  std::string request_;
  FrameReader reader_;
  std::uint64_t last_seq_ = 0;
  std::string last_nonce_;
  std::uint64_t gap_to_ = 0;
  bool order_sent_ = false;
  bool go_sent_ = false;
  bool bye_sent_ = false;
};

inline constexpr uid_t kUnknownUser = 12345;

/// A real quad-runner in a folder of its own.
class RunnerProcess {
 public:
  struct Options {
    bool as_nobody = false;
    bool namespaces = true;
    std::int32_t rank = 0;
    std::int32_t epoch = 1;
    std::uint64_t spool_bytes = 1ULL << 30U;
    std::int64_t memory_bytes = 0;
    std::int64_t processes = 0;
    std::string server;  ///< empty: the fake server's socket
    std::string ca;
    std::string termination_message;
    /// As in a container: this folder, read-only but for its own `quad`, is all that the runner
    /// sees, it is process 1, and its user is one that nobody has heard of. What it is told names
    /// paths in there. Needs root.
    std::filesystem::path image;
  };
  RunnerProcess(const std::filesystem::path& folder, const std::filesystem::path& socket,
                const Options& options);
  ~RunnerProcess();

  void signal(int number) const;
  [[nodiscard]] pid_t pid() const { return pid_; }
  /// Waits for its end; its exit code, or -signal; nullopt after `seconds`.
  std::optional<int> wait(double seconds = 20);
  /// Whether it has ended, without waiting.
  bool ended();

 private:
  pid_t pid_ = 0;
  std::optional<int> status_;
};

/// Whether this machine lets RunnerProcess start one in an image. Not in a chroot, nor in most
/// containers.
bool can_make_containers();

/// The quad-runner beside the test program.
std::filesystem::path runner_program();

}  // namespace quad::runner::testing
