// runner/session_carrier.h
//
// The runner's connection (connection.h) as what a session's pump works on (session/pump.h), and
// the waiting until it is open. One thread.

#pragma once

#include "base/result.h"
#include "base/time.h"
#include "runner/connection.h"
#include "session/pump.h"

namespace quad::runner {

class SessionCarrier final : public session::Carrier {
 public:
  SessionCarrier(ConnectionOptions options, const Clock& clock);

  /// Connects, trying again for as long as there is time. kDenied if the server refuses, with what
  /// it said; kUnavailable.
  Status open(Millis timeout);

  [[nodiscard]] int fd() const override { return connection_.fd(); }
  Status receive() override;
  FrameReader& frames() override { return connection_.frames(); }
  Result<std::size_t> send(std::string_view bytes) override;
  [[nodiscard]] bool buffered() const override { return fresh_ || connection_.buffered(); }

 private:
  Connection connection_;
  const Clock& clock_;
  bool fresh_ =
      true;  // what came right behind the server's answer is in frames(), and not looked at
};

}  // namespace quad::runner
