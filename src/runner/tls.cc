#include "runner/tls.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include <cstdlib>

#include "runner/endpoint.h"

namespace quad::runner {
namespace {

std::string last_error() {
  const unsigned long code = ERR_peek_last_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  ERR_clear_error();
  return reason == nullptr ? "unknown" : reason;
}

// A static program does not know where this image keeps its certificates.
std::string system_bundle() {
  if (const char* file = std::getenv("SSL_CERT_FILE"); file != nullptr) {
    return file;
  }
  for (const char* file : {"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
                           "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"}) {
    if (::access(file, R_OK) == 0) {
      return file;
    }
  }
  return {};
}

}  // namespace

Tls::~Tls() {
  end();
  SSL_CTX_free(context_);
}

void Tls::end() {
  SSL_free(ssl_);
  ssl_ = nullptr;
}

Status Tls::begin(int fd, const std::string& ca, const std::string& host) {
  end();
  trouble_.clear();
  if (context_ == nullptr) {
    // No configuration file: it may name modules to load, which a static program cannot.
    OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, nullptr);
    context_ = SSL_CTX_new(TLS_client_method());
    if (context_ == nullptr) {
      return error(ErrorCode::kInternal, fmt::format("TLS cannot be set up: {}", last_error()));
    }
    SSL_CTX_set_min_proto_version(context_, TLS1_2_VERSION);
    SSL_CTX_set_verify(context_, SSL_VERIFY_PEER, nullptr);
    SSL_CTX_set_mode(context_, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                   SSL_MODE_AUTO_RETRY);
    const std::string bundle = ca.empty() ? system_bundle() : ca;
    if (bundle.empty() || SSL_CTX_load_verify_file(context_, bundle.c_str()) != 1) {
      SSL_CTX_free(context_);
      context_ = nullptr;
      return error(
          ErrorCode::kIo,
          bundle.empty()
              ? std::string("This image has no file of CA certificates; SSL_CERT_FILE may name one")
              : fmt::format("The CA certificates in {} cannot be read: {}", bundle, last_error()));
    }
  }
  ssl_ = SSL_new(context_);
  if (ssl_ == nullptr || SSL_set_fd(ssl_, fd) != 1) {
    return error(ErrorCode::kInternal, fmt::format("TLS cannot be set up: {}", last_error()));
  }
  if (!numeric_address(host, "1").empty()) {
    X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl_), host.c_str());
  } else {
    SSL_set_tlsext_host_name(ssl_, host.c_str());
    SSL_set1_host(ssl_, host.c_str());
  }
  SSL_set_connect_state(ssl_);
  return {};
}

Io Tls::step(int result) {
  switch (SSL_get_error(ssl_, result)) {
    case SSL_ERROR_NONE:
      return Io::kDone;
    case SSL_ERROR_WANT_READ:
      return Io::kWantRead;
    case SSL_ERROR_WANT_WRITE:
      return Io::kWantWrite;
    case SSL_ERROR_ZERO_RETURN:
      return Io::kClosed;
    default: {
      const long verified = SSL_get_verify_result(ssl_);
      trouble_ = verified != X509_V_OK ? fmt::format("the server's certificate is not accepted: {}",
                                                     X509_verify_cert_error_string(verified))
                                       : fmt::format("TLS failed: {}", last_error());
      ERR_clear_error();
      return Io::kFailed;
    }
  }
}

Io Tls::handshake() {
  ERR_clear_error();
  return step(SSL_do_handshake(ssl_));
}

Io Tls::read(char* to, std::size_t size, std::size_t& got) {
  ERR_clear_error();
  got = 0;
  return step(SSL_read_ex(ssl_, to, size, &got));
}

Io Tls::write(const char* from, std::size_t size, std::size_t& put) {
  ERR_clear_error();
  put = 0;
  return step(SSL_write_ex(ssl_, from, size, &put));
}

bool Tls::pending() const {
  return ssl_ != nullptr && SSL_pending(ssl_) > 0;
}

}  // namespace quad::runner
