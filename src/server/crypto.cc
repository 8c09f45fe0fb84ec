#include "server/crypto.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <memory>

#include "base/file.h"
#include "base/text.h"

namespace quad::server {

namespace {

constexpr std::size_t kKeyBytes = 32;
constexpr std::size_t kNonceBytes = 12;
constexpr std::size_t kTagBytes = 16;

using Cipher = std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)>;

const unsigned char* bytes_of(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}
unsigned char* bytes_of(std::string& text) {
  return reinterpret_cast<unsigned char*>(text.data());
}

int nibble(char c) {
  return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool from_hex(std::string_view text, std::string& out) {
  if (text.size() % 2 != 0) {
    return false;
  }
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const int high = nibble(text[i]);
    const int low = nibble(text[i + 1]);
    if (high < 0 || low < 0) {
      return false;
    }
    out += static_cast<char>(high * 16 + low);
  }
  return true;
}

}  // namespace

std::string sha256_hex(std::string_view bytes) {
  std::string digest(EVP_MAX_MD_SIZE, '\0');
  unsigned int size = 0;
  EVP_Digest(bytes.data(), bytes.size(), bytes_of(digest), &size, EVP_sha256(), nullptr);
  digest.resize(size);
  return to_hex(digest);
}

Result<Key> load_key(const std::filesystem::path& file) {
  const auto text = read_file(file, 4096);
  const bool absent = !text.ok() && text.error().code == ErrorCode::kNotFound;
  if (!text.ok() && !absent) {
    return text.error();
  }
  Key key{.kept = !absent};
  if (!from_hex(absent ? random_hex(kKeyBytes) : trim(*text), key.bytes) ||
      key.bytes.size() != kKeyBytes) {
    return error(ErrorCode::kUnavailable,
                 fmt::format("{} is damaged: it must hold {} hexadecimal digits; put the right one "
                             "back, or move it away and start with quad serve "
                             "--accept-lost-records, which makes a new one",
                             file.string(), kKeyBytes * 2));
  }
  return key;
}

Status keep_key(const std::filesystem::path& file, const Key& key) {
  return key.kept ? Status() : write_file_atomically(file, to_hex(key.bytes), 0600);
}

std::string check_value(std::string_view key) {
  constexpr std::string_view kConstant = "quad: which key is this?";
  std::string digest(EVP_MAX_MD_SIZE, '\0');
  unsigned int size = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), bytes_of(kConstant),
       kConstant.size(), bytes_of(digest), &size);
  digest.resize(size);
  return to_hex(digest);
}

std::string seal(std::string_view key, std::string_view context, std::string_view plain) {
  std::string nonce(kNonceBytes, '\0');
  QUAD_CHECK(RAND_bytes(bytes_of(nonce), static_cast<int>(nonce.size())) == 1, "no randomness");
  const Cipher cipher(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free);
  std::string sealed(plain.size(), '\0');
  std::string tag(kTagBytes, '\0');
  int size = 0;
  EVP_EncryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, bytes_of(key), bytes_of(nonce));
  EVP_EncryptUpdate(cipher.get(), nullptr, &size, bytes_of(context),
                    static_cast<int>(context.size()));
  EVP_EncryptUpdate(cipher.get(), bytes_of(sealed), &size, bytes_of(plain),
                    static_cast<int>(plain.size()));
  EVP_EncryptFinal_ex(cipher.get(), bytes_of(sealed) + size, &size);
  EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_GET_TAG, kTagBytes, tag.data());
  return to_hex(nonce + tag + sealed);
}

Result<std::string> open_sealed(std::string_view key, std::string_view context,
                                std::string_view sealed) {
  const Error bad =
      error(ErrorCode::kInvalid, "A sealed secret cannot be opened with this server's key");
  std::string raw;
  if (!from_hex(sealed, raw) || raw.size() < kNonceBytes + kTagBytes) {
    return bad;
  }
  std::string tag = raw.substr(kNonceBytes, kTagBytes);
  const std::string_view body = std::string_view(raw).substr(kNonceBytes + kTagBytes);
  const Cipher cipher(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free);
  std::string plain(body.size(), '\0');
  int size = 0;
  EVP_DecryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, bytes_of(key),
                     bytes_of(std::string_view(raw)));
  EVP_DecryptUpdate(cipher.get(), nullptr, &size, bytes_of(context),
                    static_cast<int>(context.size()));
  EVP_DecryptUpdate(cipher.get(), bytes_of(plain), &size, bytes_of(body),
                    static_cast<int>(body.size()));
  EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_SET_TAG, kTagBytes, tag.data());
  if (EVP_DecryptFinal_ex(cipher.get(), bytes_of(plain) + size, &size) != 1) {
    return bad;
  }
  return plain;
}

bool equal_constant_time(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace quad::server
