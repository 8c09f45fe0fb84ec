// runner/connection.h
//
// The runner's connection to the server: connects without blocking, speaks TLS where the address
// says so, upgrades, and then carries frames. When it fails it says when to try again: 50 ms,
// doubling to 1 s, with jitter. Owned by the runner's one thread; never blocks (names are looked up
// in a worker).

#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "runner/endpoint.h"
#include "runner/protocol.h"
#include "runner/tls.h"
#include "runner/worker.h"

namespace quad::runner {

struct ConnectionOptions {
  Endpoint endpoint;
  std::string ca;
  std::string target;  ///< "/v1/runner?…"
  std::string token;
  std::string_view protocol = kUpgradeProtocol;  ///< that the server is asked to speak
  std::string_view frames = kRunnerFrames;       ///< the types of frame that it has
  bool once = false;  ///< whatever the server answers instead of an upgrade is a refusal
};

class Connection {
 public:
  enum class State {
    kWaiting,  ///< until retry_at()
    kResolving,
    kConnecting,
    kHandshake,
    kUpgrading,
    kOpen,
    kRefused,  ///< the server says: leave
  };

  explicit Connection(ConnectionOptions options)
      : options_(std::move(options)), frames_(options_.frames) {}

  /// Starts to connect when it is time.
  void tick(MonoTime now);
  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] bool open() const { return state_ == State::kOpen; }
  [[nodiscard]] MonoTime retry_at() const { return retry_at_; }
  /// What to poll: -1 when there is nothing. `want_write` is what the caller has to send.
  [[nodiscard]] int fd() const;
  [[nodiscard]] short events(bool want_write) const;

  /// To be called when fd() is ready. Frames may wait in the reader afterwards.
  void on_ready(MonoTime now);
  FrameReader& frames() { return frames_; }

  /// Sends as much as goes. 0: not now. The connection may fail meanwhile; then 0 too.
  std::size_t send(const iovec* pieces, int count, MonoTime now);

  /// Drops the connection and tries again later.
  void fail(std::string why, MonoTime now);
  /// Whether bytes have come that poll() cannot see.
  [[nodiscard]] bool buffered() const { return open() && tls_.pending(); }
  /// Why it failed or was refused, as a sentence.
  [[nodiscard]] const std::string& trouble() const { return trouble_; }
  /// The own address towards the server; empty for a unix socket.
  [[nodiscard]] std::string local_address() const;

 private:
  void begin(MonoTime now);
  void connect_next(MonoTime now);
  void on_connected(MonoTime now);
  void begin_upgrade(MonoTime now);
  void send_request(MonoTime now);
  void read_response(MonoTime now);
  void receive(MonoTime now);
  Io read_some(char* to, std::size_t size, std::size_t& got);

  ConnectionOptions options_;
  State state_ = State::kWaiting;
  MonoTime retry_at_{0};
  MonoTime deadline_{0};  // of connecting and upgrading
  int failures_ = 0;
  Worker resolver_;
  std::vector<Address> addresses_;  // still to be tried
  UniqueFd fd_;
  Tls tls_;
  bool want_write_ = false;       // of the handshake, or of a request half sent
  bool writing_blocked_ = false;  // a send met a full socket
  std::string request_;           // what is left of it
  std::string response_;
  FrameReader frames_;
  std::string trouble_;
};

}  // namespace quad::runner
