// The client's side of TLS: OpenSSL over a non-blocking socket.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>

#include <algorithm>
#include <climits>

#include "net/client_wire.h"
#include "net/tls_session.h"

namespace quad::net {

namespace {

class TlsWire final : public Wire {
 public:
  TlsWire(UniqueFd fd, const ClientOptions& options, SslContextPtr context, SslPtr session)
      : Wire(std::move(fd), options), context_(std::move(context)), session_(std::move(session)) {}

  ~TlsWire() override {
    // One try to say goodbye; whether it goes out does not matter.
    ERR_clear_error();
    SSL_shutdown(session_.get());
    ERR_clear_error();
  }

  Result<std::size_t> read_some(std::span<char> into, Millis timeout) override {
    const int size = static_cast<int>(std::min<std::size_t>(into.size(), INT_MAX));
    while (true) {
      QUAD_TRY(check_cancel());
      ERR_clear_error();
      const int got = SSL_read(session_.get(), into.data(), size);
      if (got > 0) {
        return static_cast<std::size_t>(got);
      }
      const int why = SSL_get_error(session_.get(), got);
      if (why == SSL_ERROR_ZERO_RETURN) {
        return std::size_t{0};
      }
      short events = 0;
      if (!wants(why, events)) {
        return broken(openssl_reason());
      }
      QUAD_TRY(wait_to_read(events, timeout));
    }
  }

  Result<bool> write(std::string_view bytes, Millis timeout, bool heed_answer) override {
    while (!bytes.empty()) {
      if (heed_answer && answer_waiting()) {
        return false;
      }
      ERR_clear_error();
      const int size = static_cast<int>(std::min<std::size_t>(bytes.size(), INT_MAX));
      const int sent = SSL_write(session_.get(), bytes.data(), size);
      if (sent > 0) {
        bytes.remove_prefix(static_cast<std::size_t>(sent));
        continue;
      }
      short events = 0;
      if (!wants(SSL_get_error(session_.get(), sent), events)) {
        return broken(openssl_reason());
      }
      QUAD_TRY(wait_to_write(static_cast<short>(heed_answer ? events | POLLIN : events), timeout));
    }
    return true;
  }

  Result<std::size_t> write_some(std::string_view bytes) override {
    ERR_clear_error();
    const int size = static_cast<int>(std::min<std::size_t>(bytes.size(), INT_MAX));
    const int sent = SSL_write(session_.get(), bytes.data(), size);
    short events = 0;
    if (sent <= 0 && !wants(SSL_get_error(session_.get(), sent), events)) {
      return broken(openssl_reason());
    }
    return sent > 0 ? static_cast<std::size_t>(sent) : std::size_t{0};
  }

  bool answer_waiting() override {
    ERR_clear_error();
    char one = 0;
    const int got = SSL_peek(session_.get(), &one, 1);
    if (got > 0) {
      return true;
    }
    short events = 0;
    return !wants(SSL_get_error(session_.get(), got), events);
  }

  bool buffered() override { return SSL_has_pending(session_.get()) == 1; }

 private:
  static bool wants(int why, short& events) {
    events = why == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN;
    return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE;
  }

  SslContextPtr context_;
  SslPtr session_;
};

Error no_tls(const ClientOptions& options, std::string_view why) {
  return error(ErrorCode::kUnavailable, "Cannot speak TLS with the " + options.peer + " at " +
                                            options.url + ": " + std::string(why) + ".");
}

using BioPtr = std::unique_ptr<BIO, Freer<BIO_free>>;
using CertificatePtr = std::unique_ptr<X509, Freer<X509_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;

BioPtr text_bio(const std::string& text) {
  return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

/// Never asks at the terminal for the password of an encrypted key.
int no_password(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*data*/) {
  return -1;
}

CertificatePtr next_certificate(BIO* bio) {
  return CertificatePtr(PEM_read_bio_X509(bio, nullptr, no_password, nullptr));
}

Status trust(SSL_CTX* context, const std::string& pem, const ClientOptions& options) {
  const auto bio = text_bio(pem);
  int count = 0;
  while (const auto certificate = next_certificate(bio.get())) {
    X509_STORE_add_cert(SSL_CTX_get_cert_store(context), certificate.get());
    ++count;
  }
  ERR_clear_error();  // the end of the text is an error to OpenSSL
  if (count == 0) {
    return error(ErrorCode::kInvalid, "The certificate authority for the " + options.peer + " at " +
                                          options.url + " has no PEM certificate in it.");
  }
  return {};
}

Status show_certificate(SSL_CTX* context, const ClientOptions& options) {
  const auto refuse = [&](std::string_view what) {
    return error(ErrorCode::kInvalid, "The client certificate for the " + options.peer + " at " +
                                          options.url + " cannot be used: " + std::string(what) +
                                          ".");
  };
  const auto bio = text_bio(options.certificate_pem);
  auto certificate = next_certificate(bio.get());
  if (certificate == nullptr) {
    return refuse("there is no PEM certificate in it");
  }
  if (SSL_CTX_use_certificate(context, certificate.get()) != 1) {
    return refuse(openssl_reason());
  }
  while (auto issuer = next_certificate(bio.get())) {
    if (SSL_CTX_add0_chain_cert(context, issuer.get()) == 1) {
      (void)issuer.release();  // the context's now
    }
  }
  ERR_clear_error();
  const auto key_bio = text_bio(options.key_pem);
  const KeyPtr key(PEM_read_bio_PrivateKey(key_bio.get(), nullptr, no_password, nullptr));
  if (key == nullptr) {
    ERR_clear_error();
    return refuse("there is no PEM key without a password beside it");
  }
  if (SSL_CTX_use_PrivateKey(context, key.get()) != 1 || SSL_CTX_check_private_key(context) != 1) {
    ERR_clear_error();
    return refuse("the key beside it belongs to another certificate");
  }
  return {};
}

bool is_number(const std::string& host) {
  in6_addr number{};
  return inet_pton(AF_INET, host.c_str(), &number) == 1 ||
         inet_pton(AF_INET6, host.c_str(), &number) == 1;
}

Status set_up_verification(SSL_CTX* context, SSL* session, const std::string& name,
                           const ClientOptions& options) {
  if (!options.verify_certificate) {
    SSL_set_verify(session, SSL_VERIFY_NONE, nullptr);
    return {};
  }
  SSL_set_verify(session, SSL_VERIFY_PEER, nullptr);
  const int named = is_number(name)
                        ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(session), name.c_str())
                        : SSL_set1_host(session, name.c_str());
  if (named != 1) {
    return no_tls(options, openssl_reason());
  }
  if (!options.ca_pem.empty()) {
    return trust(context, options.ca_pem, options);
  }
  if (options.ca_file.empty()) {
    SSL_CTX_set_default_verify_paths(context);
  } else if (SSL_CTX_load_verify_locations(context, options.ca_file.c_str(), nullptr) != 1) {
    return error(
        ErrorCode::kInvalid,
        "Cannot read certificates from '" + options.ca_file + "': " + openssl_reason() + ".",
        options.ca_file);
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Wire>> connect_tls(UniqueFd fd, const ServerAddress& address,
                                          const ClientOptions& options) {
  ERR_clear_error();
  SslContextPtr context(SSL_CTX_new(TLS_client_method()));
  if (context == nullptr) {
    return no_tls(options, openssl_reason());
  }
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_mode(context.get(),
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  if (!options.certificate_pem.empty()) {
    QUAD_TRY(show_certificate(context.get(), options));
  }
  SslPtr session = tls_session(context.get(), fd.get());
  if (session == nullptr) {
    return no_tls(options, openssl_reason());
  }
  const auto& name = options.tls_server_name.empty() ? address.host : options.tls_server_name;
  QUAD_TRY(set_up_verification(context.get(), session.get(), name, options));
  if (!is_number(name)) {
    SSL_set_tlsext_host_name(session.get(), name.c_str());
  }
  while (true) {
    ERR_clear_error();
    const int done = SSL_connect(session.get());
    if (done == 1) {
      break;
    }
    const int why = SSL_get_error(session.get(), done);
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) {
      const short events = why == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT;
      const auto waited =
          wait_for_fd(fd.get(), events, options.connect_timeout, options.cancel.get());
      if (waited == Waited::kCancelled) {
        return cancelled_error(options.peer);
      }
      if (waited == Waited::kTimeout) {
        return no_tls(options, "no answer within " + format_duration(options.connect_timeout));
      }
      continue;
    }
    const long verdict = SSL_get_verify_result(session.get());
    if (verdict != X509_V_OK) {
      ERR_clear_error();
      return error(ErrorCode::kDenied,
                   "The certificate of the " + options.peer + " at " + options.url +
                       " does not verify: " + X509_verify_cert_error_string(verdict) +
                       "; name its authority's file if it is your own.");
    }
    return no_tls(options, openssl_reason());
  }
  std::unique_ptr<Wire> wire =
      std::make_unique<TlsWire>(std::move(fd), options, std::move(context), std::move(session));
  return wire;
}

}  // namespace quad::net
