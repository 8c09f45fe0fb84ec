// cli/client.h
//
// How the command line reaches a server: the one that --server or QUAD_SERVER names, or the one of
// this user's data directory, which is started when none runs there. One thread; blocks.

#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"
#include "net/http_client.h"

namespace quad::cli {

/// What every command may be told.
struct Globals {
  std::string data_dir;  ///< --data-dir, QUAD_DATA_DIR, else ~/.quad
  std::string server;    ///< --server, QUAD_SERVER: an address; empty: the local one
  std::string token;     ///< QUAD_TOKEN, or the file admin.token of a data directory
  std::string ca;        ///< --ca, QUAD_CA
  std::string output;    ///< "json" or empty
  [[nodiscard]] bool json() const { return output == "json"; }
};

std::filesystem::path data_dir_of(const Globals& globals);

class Client {
 public:
  /// Finds the server; starts one on the data directory if none answers there and `may_start`.
  /// `patience`: with each answer, if another one than usual.
  static Result<Client> connect(const Globals& globals, bool may_start = true,
                                std::optional<Millis> patience = std::nullopt);

  Result<json::object> get(const std::string& target);
  /// The same; kInternal unless `key` of the answer is a list of objects.
  Result<json::object> get_list(const std::string& target, std::string_view key);
  /// `refused`: gets the members of the error's object when the server says no.
  Result<json::object> post(const std::string& target, const json::object& body = {},
                            json::object* refused = nullptr);
  Result<json::object> remove(const std::string& target);
  /// Uploads a whole file as the blob `hash`, unless the server has it.
  Status upload(const std::string& hash, int file);
  /// Asks for another protocol on a connection of its own. The server's refusal is the error.
  Result<std::unique_ptr<net::ClientStream>> upgrade(const std::string& target,
                                                     std::string_view protocol);
  /// Gives each piece of a body to `sink`; kTimeout after `silence` without one, which is never if
  /// it is 0.
  Status stream(const std::string& target, const net::ChunkSink& sink, Millis silence,
                const net::Headers& headers = {});

 private:
  explicit Client(net::HttpClient http) : http_(std::move(http)) {}
  static Result<json::object> read(const Result<net::ClientResponse>& response);

  net::HttpClient http_;
};

/// "The server sent no list of jobs …", for an answer that is none of what was asked for.
std::string not_as_promised(std::string_view what);

/// How long the server may take over an upload of this size before it answers: it reads all of one
/// that it had before it was started, and brings a new one to its disk.
Millis upload_patience(std::uint64_t bytes);

/// Starts `quad serve` on the data directory in the background, unless one runs there, and waits
/// until it answers. Of several that do this at the same moment one starts it, and the others wait
/// with it.
Status start_server(const Globals& globals);

}  // namespace quad::cli
