// net/tls_session.h  (inside the module only)
//
// One end of a TLS connection: OpenSSL over a non-blocking socket, which it reads and writes
// itself. (Asio's stream keeps 34 KiB of buffers of its own for each connection, more than all the
// rest of a server that a thousand runners are connected to.) One thread at a time.

#pragma once

#include <openssl/ssl.h>

#include <memory>
#include <string>

namespace quad::net {

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};
using SslContextPtr = std::unique_ptr<SSL_CTX, Freer<SSL_CTX_free>>;
using SslPtr = std::unique_ptr<SSL, Freer<SSL_free>>;

/// Over a socket that stays its owner's. Raises no SIGPIPE when the other side is gone, as
/// OpenSSL's own way to a socket does. Null if there is no memory.
SslPtr tls_session(SSL_CTX* context, int fd);

/// OpenSSL's text for the oldest error in its queue, which is then empty.
std::string openssl_reason();

}  // namespace quad::net
