// server/certificate_watch.h
//
// The certificate that a running server shows: its own is renewed long before it runs out, and one
// that somebody else renews (cert-manager, an administrator) is taken up when its file has changed.
// Connections that are open stay as they are. What cannot be used is said once and tried again; the
// one before goes on being shown. One thread; a look reads one small file, and each hour three.

#pragma once

#include <functional>
#include <string>

#include "base/result.h"
#include "base/time.h"
#include "config/config.h"

namespace quad::server {

class CertificateWatch {
 public:
  using Renew = std::function<Status(WallTime now)>;
  using Use = std::function<Status(const config::Tls& files)>;

  /// `files` are in use. `renew` renews them if it is time to; empty: somebody else does.
  CertificateWatch(config::Tls files, Renew renew, Use use);
  /// To be called each minute or so.
  void look(WallTime now);

 private:
  void say(const Status& status);

  const config::Tls files_;
  const Renew renew_;
  const Use use_;
  std::string shown_;  ///< the file that is in use
  std::string said_;
  WallTime renewed_at_;  ///< when that was last looked at
};

}  // namespace quad::server
