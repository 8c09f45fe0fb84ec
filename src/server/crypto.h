// server/crypto.h
//
// Secrets at rest: sealed with AES-256-GCM under a key that lies beside the database in a file of
// its own (0600), and tokens kept only as SHA-256. Pure but for load_key and keep_key; any thread.

#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace quad::server {

/// Lower-case hexadecimal SHA-256.
std::string sha256_hex(std::string_view bytes);

/// 32 secret bytes that are kept in a file.
struct Key {
  std::string bytes;
  bool kept = true;  ///< false: they are fresh ones, for which there is no file yet
};

/// The file's, or fresh ones if it is absent. kIo; kUnavailable, with what to do, if it is damaged.
Result<Key> load_key(const std::filesystem::path& file);
/// Makes the file if the key is not kept yet.
Status keep_key(const std::filesystem::path& file, const Key& key);

/// By which one key is told from another, and of which nothing of it can be learnt.
std::string check_value(std::string_view key);

/// nonce, tag and ciphertext as hexadecimal. `context` is bound to it: it opens only with the same
/// one.
std::string seal(std::string_view key, std::string_view context, std::string_view plain);
/// kInvalid if it was not sealed with this key and context, or was changed since.
Result<std::string> open_sealed(std::string_view key, std::string_view context,
                                std::string_view sealed);

/// Whether two texts are equal, in a time that does not tell where they differ.
bool equal_constant_time(std::string_view a, std::string_view b);

}  // namespace quad::server
