#include "runner/blob_door.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "base/file.h"
#include "runner/http_get.h"

namespace quad::runner {
namespace {

constexpr std::uint32_t kMostPiece = 16U << 20U;

std::string number(std::uint32_t value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

std::string end_of(const Status& status) {
  const std::string text = status.ok() ? std::string() : status.error().message;
  const std::uint32_t code = status.ok() ? 0 : static_cast<std::uint32_t>(status.error().code) + 1;
  return number(0) + number(code) + number(static_cast<std::uint32_t>(text.size())) + text;
}

// Error of the source; one of the door itself ends the process, as nobody listens.
Status pass_on(const Start& start, const std::string& hash, int fd) {
  GetRequest request;
  request.server = start.server;
  request.target = "/v1/blobs/" + hash;
  request.token = start.token;
  request.ca = start.ca;
  HttpGet get;
  if (auto opened = get.open(request); !opened.ok()) {
    return opened.error().code != ErrorCode::kNotFound
               ? opened
               : error(ErrorCode::kNotFound,
                       "the server no longer has its copy; launch it again, which uploads it anew");
  }
  for (;;) {
    QUAD_ASSIGN(const std::string_view piece, get.read());
    if (piece.empty()) {
      return {};
    }
    if (!write_all(fd, number(static_cast<std::uint32_t>(piece.size()))).ok() ||
        !write_all(fd, piece).ok()) {
      ::_exit(0);
    }
  }
}

}  // namespace

void serve_blobs(const Start& start, const Order& order, int fd) {
  std::string asked;
  char letter = 0;
  for (;;) {
    const ssize_t got = ::read(fd, &letter, 1);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0 || asked.size() > 128) {
      return;
    }
    if (letter != '\n') {
      asked += letter;
      continue;
    }
    const bool is_ordered = std::any_of(order.mounts.begin(), order.mounts.end(),
                                        [&](const Mount& mount) { return mount.blob == asked; });
    const Status passed =
        is_ordered ? pass_on(start, asked, fd)
                   : Status(error(ErrorCode::kDenied, "the rank's order names no such upload"));
    if (!write_all(fd, end_of(passed)).ok()) {
      return;
    }
    asked.clear();
  }
}

Status BlobDoor::ask(const std::string& hash) {
  over_ = false;
  return write_all(fd_, hash + "\n");
}

Status BlobDoor::take(char* into, std::size_t size) const {
  while (size > 0) {
    const ssize_t got = ::read(fd_, into, size);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      return error(ErrorCode::kIo, "the runner no longer passes it on");
    }
    into += got;
    size -= static_cast<std::size_t>(got);
  }
  return {};
}

Result<std::string_view> BlobDoor::read() {
  if (over_) {
    return std::string_view();
  }
  std::uint32_t size = 0;
  QUAD_TRY(take(reinterpret_cast<char*>(&size), sizeof size));
  over_ = size == 0;
  std::uint32_t code = 0;
  if (over_) {
    QUAD_TRY(take(reinterpret_cast<char*>(&code), sizeof code));
    QUAD_TRY(take(reinterpret_cast<char*>(&size), sizeof size));
  }
  piece_.resize(std::min(size, kMostPiece));
  QUAD_TRY(take(piece_.data(), piece_.size()));
  if (code != 0) {
    return error(static_cast<ErrorCode>(code - 1), piece_);
  }
  return std::string_view(piece_);
}

}  // namespace quad::runner
