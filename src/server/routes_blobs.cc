// Work directories and mounts on their way from the command line to the runners: content-addressed
// files.

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <utility>

#include "base/file.h"
#include "base/text.h"
#include "server/app.h"

namespace quad::server {

namespace asio = boost::asio;
namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kLargestBlob = 64ULL << 30U;

Error too_large() {
  return error(ErrorCode::kExhausted,
               fmt::format("An upload may have {} GiB at most", kLargestBlob >> 30U));
}

bool is_hash(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

/// Which content of the file this is: another one has another, unless somebody sets the clock back.
std::string stamp_of(const struct stat& info) {
  return fmt::format("{} {} {}.{:09}", info.st_ino, info.st_size, info.st_mtim.tv_sec,
                     info.st_mtim.tv_nsec);
}

class Digest {
 public:
  Digest() { EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr); }
  void add(std::string_view bytes) { EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()); }
  std::string hex() {
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned int length = 0;
    EVP_DigestFinal_ex(context_.get(), sum, &length);
    return to_hex({reinterpret_cast<const char*>(sum), length});
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_{EVP_MD_CTX_new(),
                                                                   &EVP_MD_CTX_free};
};

/// A file that is read through by the pool; its SHA-256 once that is done, empty if it cannot be
/// read.
struct Hashed {
  UniqueFd fd;
  Digest digest;
  off_t at = 0;

  std::optional<std::string> step() {
    const auto until = std::chrono::steady_clock::now() + kPiece;
    std::string piece(256 * 1024, '\0');
    do {
      const ssize_t got = ::pread(fd.get(), piece.data(), piece.size(), at);
      if (got <= 0) {
        return got < 0 ? std::string() : digest.hex();
      }
      digest.add({piece.data(), static_cast<std::size_t>(got)});
      at += got;
    } while (std::chrono::steady_clock::now() < until);
    return std::nullopt;
  }
};

/// Whether the file still holds what its name says. Reads all of it, but only what this server has
/// neither taken in nor read already.
asio::awaitable<Result<bool>> is_sound(App& app, net::Exchange& exchange, int fd,
                                       const std::string& hash) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) {
    co_return false;
  }
  const std::string stamp = stamp_of(info);
  if (const auto known = app.sound_blobs.find(hash);
      known != app.sound_blobs.end() && known->second == stamp) {
    co_return true;
  }
  const auto file = std::make_shared<Hashed>();
  file->fd.reset(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  const std::function<std::optional<std::string>()> work = [file] { return file->step(); };
  const auto sum = co_await in_turn<std::string>(app, exchange, Length::kLong, work);
  if (!sum.ok()) {
    co_return sum.error();
  }
  const bool sound = *sum == hash;
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

/// An upload on its way to the disk: by the pool, some hundred KiB at a time, as both the sum and
/// the writing take longer than the io thread may stop.
struct Arriving {
  explicit Arriving(const fs::path& blob)
      : path(temporary_of(blob)),
        fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) {}
  Arriving(const Arriving&) = delete;
  Arriving& operator=(const Arriving&) = delete;
  ~Arriving() {
    if (fd) {
      ::unlink(path.c_str());
    }
  }

  Status take(std::string_view bytes) {
    digest.add(bytes);
    return write_all(fd.get(), bytes);
  }

  const std::string path;
  const UniqueFd fd;
  Digest digest;
};

/// Has the bytes written when it is the caller's turn; waits for that while there is too much to
/// do.
asio::awaitable<Status> write_piece(App& app, net::Exchange& exchange,
                                    std::shared_ptr<Arriving> file, std::string bytes) {
  constexpr Millis kPause{50};
  constexpr Millis kPatience{30'000};
  const auto piece = std::make_shared<const std::string>(std::move(bytes));
  const std::function<std::optional<Status>()> work = [file, piece] { return file->take(*piece); };
  const MonoTime until = app.clock->now().mono + kPatience;
  for (net::Wakeup nobody(exchange.executor());;) {
    auto written = co_await in_turn<Status>(app, exchange, Length::kPart, work);
    if (written.ok()) {
      co_return std::move(*written);
    }
    if (app.clock->now().mono >= until || app.stopping) {
      co_return written.error();
    }
    co_await nobody.wait_for(kPause);
  }
}

/// The body into the file; how many bytes that were.
asio::awaitable<Result<std::uint64_t>> receive(App& app, net::Exchange& exchange, Upload& upload,
                                               std::shared_ptr<Arriving> file) {
  constexpr std::size_t kPieceBytes = 256 * 1024;
  std::uint64_t total = 0;
  std::string held;
  for (bool last = false; !last;) {
    const auto got = co_await exchange.read_body_some();
    if (!got.ok()) {
      co_return got.error();
    }
    last = got->empty();
    held += *got;
    total += got->size();
    if (total > kLargestBlob) {
      co_return too_large();
    }
    if (held.size() < kPieceBytes && !last) {
      continue;
    }
    std::string piece = std::exchange(held, {});
    const std::size_t size = piece.size();
    if (const Status room = upload.claim(size); !room.ok()) {
      co_return room.error();
    }
    const Status written = co_await write_piece(app, exchange, file, std::move(piece));
    if (!written.ok()) {
      co_return written.error();
    }
    upload.wrote(size);
  }
  co_return total;
}

asio::awaitable<void> put_blob(App& app, net::Exchange& exchange) {
  const fs::path blob = blob_file(app, exchange);
  if (blob.empty()) {
    co_return;
  }
  const std::string hash = blob.filename().string();
  Upload upload(app.upload_room, caller_of(exchange).user);
  if (const Status begun = upload.begin(); !begun.ok()) {
    respond_busy(exchange, begun.error());
    co_return;
  }
  const std::uint64_t promised = exchange.content_length().value_or(0);
  const Status room = promised > kLargestBlob ? too_large() : upload.claim(promised);
  if (!room.ok()) {
    exchange.respond_error(room.error());
    co_return;
  }
  const auto file = std::make_shared<Arriving>(blob);
  if (!file->fd) {
    exchange.respond_error(errno_error("The upload cannot be kept", errno));
    co_return;
  }
  const auto size = co_await receive(app, exchange, upload, file);
  if (!size.ok()) {
    exchange.respond_error(size.error());
    co_return;
  }
  if (file->digest.hex() != hash) {
    exchange.respond_error(error(
        ErrorCode::kInvalid, "What was sent does not have this SHA-256; send it again", "hash"));
    co_return;
  }
  const std::function<int()> sync = [file] { return ::fsync(file->fd.get()) != 0 ? errno : 0; };
  int failure = co_await away<int>(app, exchange, sync);
  // On the io thread, as is every look at what lies under a blob's name: see drop_damaged().
  if (failure == 0 && ::rename(file->path.c_str(), blob.c_str()) != 0) {
    failure = errno;
  }
  struct stat info {};
  if (failure == 0 && ::fstat(file->fd.get(), &info) != 0) {
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
    const auto sound = co_await is_sound(app, exchange, fd.get(), hash);
    if (!sound.ok()) {
      respond_busy(exchange, sound.error());
      co_return;
    }
    if (*sound) {
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
  net::RouteOptions upload = for_role(Role::kUser);
  upload.body = net::BodyMode::kStreamed;
  router.add(
      "PUT", "/v1/blobs/{hash}", [&app](net::Exchange& e) { return put_blob(app, e); },
      std::move(upload));
  router.get("/v1/blobs/{hash}", [&app](net::Exchange& e) { return get_blob(app, e); });
}

}  // namespace quad::server
