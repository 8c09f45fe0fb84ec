// cli/session.h
//
// The client's end of a session with a rank, over whatever connection the command line has to its
// server. One thread.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "cli/client.h"
#include "session/pump.h"

namespace quad::cli {

class ClientCarrier final : public session::Carrier {
 public:
  explicit ClientCarrier(std::unique_ptr<net::ClientStream> stream);

  [[nodiscard]] int fd() const override { return stream_->fd(); }
  Status receive() override;
  runner::FrameReader& frames() override { return frames_; }
  Result<std::size_t> send(std::string_view bytes) override { return stream_->write_some(bytes); }
  [[nodiscard]] bool buffered() const override { return stream_->buffered(); }

 private:
  std::unique_ptr<net::ClientStream> stream_;
  runner::FrameReader frames_;
};

/// Opens a session of this kind: exec, shell, copy or forward.
Result<std::unique_ptr<ClientCarrier>> open_session(Client& client, std::int64_t job,
                                                    std::int64_t rank, std::string_view kind);

/// Prints why a session ended before its time, as far as the server can tell now: that the job has
/// ended, or that the server itself is away. The exit code.
int tell_broken_off(const Globals& globals, std::int64_t job, const Error& failure);
/// Prints why a server refused a session, or a change to a cluster. The exit code: 1 for a state
/// in which it cannot be done, such as of a job that does not run.
int tell_refused(const Error& failure);

}  // namespace quad::cli
