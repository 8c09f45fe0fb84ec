#include "server/authority.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>

#include "base/file.h"
#include "base/machine.h"
#include "net/tls_session.h"

namespace quad::server {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kDay = 86'400;
constexpr std::int64_t kAuthorityDays = 3'650;
constexpr std::int64_t kCertificateDays = 730;
/// For clocks that are behind.
constexpr std::int64_t kBackdatedDays = 1;

using Bio = std::unique_ptr<BIO, net::Freer<BIO_free_all>>;
using Key = std::unique_ptr<EVP_PKEY, net::Freer<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, net::Freer<X509_free>>;
using Extension = std::unique_ptr<X509_EXTENSION, net::Freer<X509_EXTENSION_free>>;

Error failed(std::string_view what) {
  std::array<char, 256> text{};
  ERR_error_string_n(ERR_get_error(), text.data(), text.size());
  return error(ErrorCode::kInternal, fmt::format("{}: {}", what, text.data()));
}

std::string text_of(BIO* bio) {
  char* bytes = nullptr;
  const long size = BIO_get_mem_data(bio, &bytes);
  return {bytes, static_cast<std::size_t>(size)};
}

std::string pem_of(X509* certificate) {
  const Bio bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(bio.get(), certificate);
  return text_of(bio.get());
}

std::string pem_of(EVP_PKEY* key) {
  const Bio bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr);
  return text_of(bio.get());
}

Bio reader_of(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

Certificate certificate_in(const std::string& pem) {
  return Certificate(PEM_read_bio_X509(reader_of(pem).get(), nullptr, nullptr, nullptr));
}

Key key_in(const std::string& pem) {
  return Key(PEM_read_bio_PrivateKey(reader_of(pem).get(), nullptr, nullptr, nullptr));
}

bool add_extension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const Extension extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  return extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1;
}

struct Plan {
  std::string name;
  std::int64_t days = 0;
  std::vector<std::pair<int, std::string>> extensions;
};

/// A certificate of `key`, signed with `signing` by `issuer`, or by itself.
Result<Certificate> sign(EVP_PKEY* key, const Plan& plan, X509* issuer, EVP_PKEY* signing,
                         WallTime now) {
  Certificate made(X509_new());
  std::array<unsigned char, 16> serial{};
  if (made == nullptr || RAND_bytes(serial.data(), static_cast<int>(serial.size())) != 1) {
    return failed("No certificate can be made");
  }
  serial[0] = static_cast<unsigned char>((serial[0] & 0x7FU) | 0x40U);  // positive, of full length
  const std::unique_ptr<BIGNUM, net::Freer<BN_free>> number(
      BN_bin2bn(serial.data(), static_cast<int>(serial.size()), nullptr));
  BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(made.get()));
  X509_set_version(made.get(), X509_VERSION_3);
  const auto at = static_cast<time_t>(now.millis / 1000);
  ASN1_TIME_set(X509_getm_notBefore(made.get()), at - kBackdatedDays * kDay);
  ASN1_TIME_set(X509_getm_notAfter(made.get()), at + plan.days * kDay);
  X509_set_pubkey(made.get(), key);
  X509_NAME* subject = X509_get_subject_name(made.get());
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(plan.name.c_str()), -1, -1, 0);
  X509* signer = issuer == nullptr ? made.get() : issuer;
  X509_set_issuer_name(made.get(), X509_get_subject_name(signer));
  for (const auto& [nid, value] : plan.extensions) {
    if (!add_extension(made.get(), signer, nid, value)) {
      return failed(fmt::format("The certificate cannot say {}", value));
    }
  }
  if (X509_sign(made.get(), signing, EVP_sha256()) == 0) {
    return failed("The certificate cannot be signed");
  }
  return made;
}

bool is_address(const std::string& name) {
  std::array<unsigned char, sizeof(in6_addr)> bytes{};
  return ::inet_pton(AF_INET, name.c_str(), bytes.data()) == 1 ||
         ::inet_pton(AF_INET6, name.c_str(), bytes.data()) == 1;
}

std::string alternative_names(const std::vector<std::string>& names) {
  std::vector<std::string> all;
  for (const std::string& name : names) {
    all.push_back((is_address(name) ? "IP:" : "DNS:") + name);
  }
  return fmt::format("{}", fmt::join(all, ","));
}

bool covers(X509* certificate, const std::vector<std::string>& names) {
  return std::all_of(names.begin(), names.end(), [&](const std::string& name) {
    return is_address(name)
               ? X509_check_ip_asc(certificate, name.c_str(), 0) == 1
               : X509_check_host(certificate, name.c_str(), name.size(), 0, nullptr) == 1;
  });
}

bool lasts(X509* certificate, WallTime now, std::int64_t days) {
  auto at = static_cast<time_t>(now.millis / 1000);
  auto until = static_cast<time_t>(now.millis / 1000 + days * kDay);
  return X509_cmp_time(X509_get0_notBefore(certificate), &at) < 0 &&
         X509_cmp_time(X509_get0_notAfter(certificate), &until) > 0;
}

struct Authority {
  Certificate certificate;
  Key key;
};

/// The certificate is written last: where it is, the key is.
Result<Authority> authority_in(const fs::path& folder, WallTime now) {
  const fs::path certificate_file = folder / "ca.pem";
  const fs::path key_file = folder / "ca.key";
  auto pem = read_file(certificate_file);
  if (pem.ok()) {
    QUAD_ASSIGN(const std::string key_pem, read_file(key_file));
    Authority there{certificate_in(*pem), key_in(key_pem)};
    if (there.certificate == nullptr || there.key == nullptr ||
        X509_check_private_key(there.certificate.get(), there.key.get()) != 1) {
      return error(ErrorCode::kInvalid,
                   fmt::format("{} and {} do not belong together; restore them, or remove the "
                               "folder, and runners of running jobs will not trust this server",
                               certificate_file.string(), key_file.string()));
    }
    if (lasts(there.certificate.get(), now, kCertificateDays / 2)) {
      return there;
    }
  } else if (pem.error().code != ErrorCode::kNotFound) {
    return pem.error();
  }
  Authority made;
  made.key = Key(EVP_EC_gen("P-256"));
  if (made.key == nullptr) {
    return failed("No key can be made");
  }
  const Plan plan{"Quad's own authority",
                  kAuthorityDays,
                  {{NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
                   {NID_key_usage, "critical,keyCertSign,cRLSign"},
                   {NID_subject_key_identifier, "hash"}}};
  QUAD_ASSIGN(made.certificate, sign(made.key.get(), plan, nullptr, made.key.get(), now));
  QUAD_TRY(write_file_atomically(key_file, pem_of(made.key.get()), 0600));
  QUAD_TRY(write_file_atomically(certificate_file, pem_of(made.certificate.get()), 0644));
  return made;
}

/// Of "https://host:port" or "https://[::1]:port/path".
std::string host_of(std::string_view url) {
  if (const std::size_t scheme = url.find("://"); scheme != std::string_view::npos) {
    url.remove_prefix(scheme + 3);
  }
  url = url.substr(0, url.find('/'));
  if (url.starts_with('[')) {
    return std::string(url.substr(1, url.find(']') - 1));
  }
  return std::string(url.substr(0, url.rfind(':')));
}

}  // namespace

Result<config::Tls> own_certificate(const fs::path& data_dir, const std::vector<std::string>& names,
                                    WallTime now) {
  const fs::path folder = data_dir / "tls";
  QUAD_TRY(make_folders(folder, 0700));
  QUAD_ASSIGN(const Authority authority, authority_in(folder, now));
  const config::Tls files{(folder / "server.pem").string(), (folder / "server.key").string(),
                          (folder / "ca.pem").string()};
  const auto pem = read_file(files.certificate);
  const auto key_pem = read_file(files.key);
  if (pem.ok() && key_pem.ok()) {
    const Certificate there = certificate_in(*pem);
    const Key key = key_in(*key_pem);
    if (there != nullptr && key != nullptr && X509_check_private_key(there.get(), key.get()) == 1 &&
        X509_verify(there.get(), authority.key.get()) == 1 && covers(there.get(), names) &&
        lasts(there.get(), now, kCertificateDays / 2)) {
      return files;
    }
  }
  const Key key(EVP_EC_gen("P-256"));
  if (key == nullptr) {
    return failed("No key can be made");
  }
  const Plan plan{"Quad",
                  kCertificateDays,
                  {{NID_basic_constraints, "critical,CA:FALSE"},
                   {NID_key_usage, "critical,digitalSignature"},
                   {NID_ext_key_usage, "serverAuth"},
                   {NID_authority_key_identifier, "keyid"},
                   {NID_subject_alt_name, alternative_names(names)}}};
  QUAD_ASSIGN(const Certificate made,
              sign(key.get(), plan, authority.certificate.get(), authority.key.get(), now));
  QUAD_TRY(write_file_atomically(files.key, pem_of(key.get()), 0600));
  QUAD_TRY(write_file_atomically(files.certificate, pem_of(made.get()), 0644));
  return files;
}

std::vector<std::string> names_of(const config::Config& config) {
  std::vector<std::string> names = {"localhost", "127.0.0.1", "::1"};
  const auto add = [&](const std::string& name) {
    if (!name.empty() && std::find(names.begin(), names.end(), name) == names.end()) {
      names.push_back(name);
    }
  };
  if (config.listen != "0.0.0.0" && config.listen != "::") {
    add(config.listen);
  }
  add(host_of(config.url));
  for (const config::Kubernetes& cluster : config.kubernetes) {
    add(host_of(cluster.server_url));
  }
  add(host_name());
  return names;
}

}  // namespace quad::server
