// engine/kubernetes/client/credentials.h
//
// What every request proves itself with, kept fresh: a token file is read again as it is rotated, a
// plugin is run again when what it gave expires or the server refuses it. Shared by the threads
// that talk to one API server, hence the mutex: each would otherwise run the plugin for itself.
//
// get() costs a comparison of times when what is held is still good; else a file read or a plugin's
// run (at most a minute), during which the other threads wait for it, each ended by its own Cancel.

#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "base/time.h"
#include "engine/kubernetes/client/kubeconfig.h"
#include "net/cancel.h"

namespace quad::kubernetes {

struct Credential {
  std::string authorization;  ///< the value of the header; empty for none
  std::string certificate_pem;
  std::string key_pem;
  std::uint64_t generation = 0;  ///< another one for another credential
};

class Credentials {
 public:
  /// `clock` outlives this.
  Credentials(ClusterAccess access, const Clock& clock);

  Result<std::shared_ptr<const Credential>> get(const net::Cancel& cancel);
  /// The server refused (401) the credential of this generation: the next get() makes a new one. It
  /// does so at most every two seconds, so that a user without access runs no plugin in a circle.
  void refused(std::uint64_t generation);

 private:
  [[nodiscard]] bool good(const Now& now) const;
  Result<Credential> fetch(std::optional<WallTime>& expires, const net::Cancel& cancel) const;
  void keep(Result<Credential> fetched, std::optional<WallTime> expires);

  const ClusterAccess access_;
  const Clock& clock_;
  std::mutex mutex_;  ///< of what follows; not held while fetching
  bool fetching_ = false;
  std::shared_ptr<const Credential> held_;
  std::optional<Error> failure_;  ///< of the last fetch
  MonoTime fetched_;
  std::optional<WallTime> expires_;  ///< of what a plugin gave
  bool stale_ = false;
};

}  // namespace quad::kubernetes
