// runner/tls.h
//
// TLS over a connected socket, client side, for non-blocking and blocking sockets alike. OpenSSL is
// touched only when one is made. The peer must prove its name (or address) by a certificate that
// descends from `ca`, or from the system's where that is empty. Owned by one thread.

#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

struct ssl_ctx_st;
struct ssl_st;

namespace quad::runner {

/// What a step of a non-blocking stream came to.
enum class Io { kDone, kWantRead, kWantWrite, kClosed, kFailed };

class Tls {
 public:
  Tls() = default;
  Tls(const Tls&) = delete;
  Tls& operator=(const Tls&) = delete;
  ~Tls();

  /// Binds a session to `fd`. kIo with a sentence when the certificates cannot be read.
  Status begin(int fd, const std::string& ca, const std::string& host);
  void end();
  [[nodiscard]] bool active() const { return ssl_ != nullptr; }

  Io handshake();
  Io read(char* to, std::size_t size, std::size_t& got);
  Io write(const char* from, std::size_t size, std::size_t& put);
  /// Bytes that are decrypted and wait inside, which poll cannot see.
  [[nodiscard]] bool pending() const;
  /// Why a step failed, as a sentence.
  [[nodiscard]] const std::string& trouble() const { return trouble_; }

 private:
  Io step(int result);

  ssl_ctx_st* context_ = nullptr;
  ssl_st* ssl_ = nullptr;
  std::string trouble_;
};

}  // namespace quad::runner
