// Work directories and mounts on their way from the command line to the runners: content-addressed
// files.

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <memory>

#include "base/file.h"
#include "base/text.h"
#include "server/app.h"

namespace quad::server {

namespace asio = boost::asio;
namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kLargestBlob = 64ULL << 30U;
/// Left free on the disk whatever is uploaded, so that the store and the logs go on.
constexpr std::uint64_t kKeptFree = 256ULL << 20U;

bool is_hash(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

/// Which content of the file this is: another one has another, unless somebody sets the clock back.
std::string stamp_of(const struct stat& info) {
  return fmt::format("{} {} {}.{:09}", info.st_ino, info.st_size, info.st_mtim.tv_sec,
                     info.st_mtim.tv_nsec);
}

/// Whether the file still holds what its name says. Reads all of it, but only what this server has
/// neither taken in nor read already.
asio::awaitable<bool> is_sound(App& app, net::Exchange& exchange, int fd, const std::string& hash) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) {
    co_return false;
  }
  const std::string stamp = stamp_of(info);
  if (const auto known = app.sound_blobs.find(hash);
      known != app.sound_blobs.end() && known->second == stamp) {
    co_return true;
  }
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> digest(EVP_MD_CTX_new(),
                                                                       &EVP_MD_CTX_free);
  EVP_DigestInit_ex(digest.get(), EVP_sha256(), nullptr);
  std::string piece(256 * 1024, '\0');
  for (off_t at = 0;;) {
    const ssize_t got = ::pread(fd, piece.data(), piece.size(), at);
    if (got < 0) {
      co_return false;
    }
    if (got == 0) {
      break;
    }
    EVP_DigestUpdate(digest.get(), piece.data(), static_cast<std::size_t>(got));
    at += got;
    co_await asio::post(exchange.executor(), asio::use_awaitable);  // others have their turn
  }
  unsigned char sum[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  EVP_DigestFinal_ex(digest.get(), sum, &length);
  const bool sound = to_hex({reinterpret_cast<const char*>(sum), length}) == hash;
  if (sound) {
    app.sound_blobs[hash] = stamp;
  }
  co_return sound;
}

/// The blob that the path names; empty after an answer that refuses it.
fs::path blob_file(App& app, net::Exchange& exchange) {
  const std::string_view hash = exchange.parameter("hash");
  if (!is_hash(hash)) {
    exchange.respond_error(error(
        ErrorCode::kInvalid, "A blob is named by its SHA-256 in lower-case hexadecimal", "hash"));
    return {};
  }
  return app.data_dir / "blobs" / std::string(hash);
}

asio::awaitable<void> put_blob(App& app, net::Exchange& exchange) {
  if (!require(exchange, Role::kUser)) {
    co_return;
  }
  const fs::path file = blob_file(app, exchange);
  if (file.empty()) {
    co_return;
  }
  const std::string hash = file.filename().string();
  struct statvfs disk {};
  if (::statvfs(app.data_dir.c_str(), &disk) == 0 &&
      static_cast<std::uint64_t>(disk.f_bavail) * disk.f_frsize <
          exchange.content_length().value_or(0) + kKeptFree) {
    exchange.respond_error(
        error(ErrorCode::kExhausted, "The server's disk has no room for this upload"));
    co_return;
  }
  const std::string temporary = fmt::format("{}.tmp-{}", file.string(), random_hex(6));
  const UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) {
    exchange.respond_error(errno_error("The upload cannot be kept", errno));
    co_return;
  }
  struct Remove {
    const std::string& path;
    ~Remove() { ::unlink(path.c_str()); }
  } remove{temporary};
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> digest(EVP_MD_CTX_new(),
                                                                       EVP_MD_CTX_free);
  EVP_DigestInit_ex(digest.get(), EVP_sha256(), nullptr);
  const net::BodySink sink = [&](std::string_view piece) {
    EVP_DigestUpdate(digest.get(), piece.data(), piece.size());
    return write_all(fd.get(), piece);
  };
  const auto size = co_await exchange.read_body_to(sink, kLargestBlob);
  if (!size.ok()) {
    exchange.respond_error(size.error());
    co_return;
  }
  std::string sum(EVP_MAX_MD_SIZE, '\0');
  unsigned int length = 0;
  EVP_DigestFinal_ex(digest.get(), reinterpret_cast<unsigned char*>(sum.data()), &length);
  sum.resize(length);
  if (to_hex(sum) != hash) {
    exchange.respond_error(error(
        ErrorCode::kInvalid, "What was sent does not have this SHA-256; send it again", "hash"));
    co_return;
  }
  const std::function<int()> sync = [at = fd.get()] { return ::fsync(at) != 0 ? errno : 0; };
  int failure = co_await away<int>(app, exchange, sync);
  // On the io thread, as is every look at what lies under a blob's name: see drop_damaged().
  if (failure == 0 && ::rename(temporary.c_str(), file.c_str()) != 0) {
    failure = errno;
  }
  struct stat info {};
  if (failure == 0 && ::fstat(fd.get(), &info) != 0) {
    failure = errno;
  }
  if (failure != 0) {
    exchange.respond_error(errno_error("The upload cannot be kept", failure));
    co_return;
  }
  app.sound_blobs[hash] = stamp_of(info);
  exchange.respond(json_answer(json::object{{"hash", hash}, {"bytes", *size}}, 201));
}

/// Takes a damaged file away, unless another has been uploaded in its place since it was opened as
/// `fd`. Whether it was.
bool drop_damaged(int fd, const fs::path& file) {
  struct stat checked {};
  struct stat now {};
  if (::fstat(fd, &checked) != 0 || ::stat(file.c_str(), &now) != 0 ||
      checked.st_ino != now.st_ino || checked.st_dev != now.st_dev) {
    return false;
  }
  spdlog::warn("the upload {} is damaged, and is asked for anew", file.string());
  ::unlink(file.c_str());
  return true;
}

/// Whether the server has it: whoever asks will not send it then, so it must be whole.
asio::awaitable<void> has_blob(App& app, net::Exchange& exchange, const fs::path& file) {
  const std::string hash = file.filename().string();
  for (;;) {
    const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat info {};
    if (!fd || ::fstat(fd.get(), &info) != 0) {
      break;
    }
    const bool sound = co_await is_sound(app, exchange, fd.get(), hash);
    if (sound) {
      exchange.respond({200,
                        "application/octet-stream",
                        "",
                        {{"Quad-Bytes", std::to_string(info.st_size)}},
                        nullptr});
      co_return;
    }
    if (drop_damaged(fd.get(), file)) {
      break;
    }
  }
  exchange.respond_error(error(ErrorCode::kNotFound, "There is no such blob here"));
}

asio::awaitable<void> get_blob(App& app, net::Exchange& exchange) {
  const fs::path file = blob_file(app, exchange);
  if (file.empty()) {
    co_return;
  }
  if (exchange.request().method == "HEAD") {
    co_await has_blob(app, exchange, file);
    co_return;
  }
  const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    exchange.respond_error(error(ErrorCode::kNotFound, "There is no such blob here"));
    co_return;
  }
  const std::string type = "application/octet-stream";
  net::BodyStream stream = co_await exchange.start_stream(200, type);
  std::string piece(256 * 1024, '\0');
  for (const Caller caller = caller_of(exchange);;) {
    if (!is_known(app, caller)) {
      stream.abort();
      co_return;
    }
    const ssize_t got = ::read(fd.get(), piece.data(), piece.size());
    if (got <= 0) {
      co_return;
    }
    const std::string_view bytes(piece.data(), static_cast<std::size_t>(got));
    const Status sent = co_await stream.write(bytes);
    if (!sent.ok()) {
      co_return;
    }
  }
}

}  // namespace

void add_blob_routes(App& app, net::Router& router) {
  router.add("PUT", "/v1/blobs/{hash}", [&app](net::Exchange& e) { return put_blob(app, e); },
             {net::BodyMode::kStreamed, 0});
  router.get("/v1/blobs/{hash}", [&app](net::Exchange& e) { return get_blob(app, e); });
}

}  // namespace quad::server
