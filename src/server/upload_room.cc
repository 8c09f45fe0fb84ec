#include "server/upload_room.h"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <vector>

#include "base/text.h"

namespace quad::server {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kTemporary = ".tmp-";

}  // namespace

Upload::Upload(UploadRoom& room, std::string user) : room_(room), user_(std::move(user)) {}

Upload::~Upload() {
  room_.claimed_ -= claimed_;
  if (counted_) {
    --room_.uploads_;
    if (const auto own = room_.uploads_of_.find(user_); --own->second == 0) {
      room_.uploads_of_.erase(own);
    }
  }
}

Status Upload::begin() {
  const auto own = room_.uploads_of_.find(user_);
  if (own != room_.uploads_of_.end() && own->second >= UploadRoom::kMostOfUser) {
    return error(ErrorCode::kExhausted,
                 fmt::format("{} has {} uploads under way already; wait for one of them", user_,
                             own->second));
  }
  if (room_.uploads_ >= UploadRoom::kMost) {
    return error(ErrorCode::kUnavailable,
                 fmt::format("{} uploads are under way, which is the most that the server takes; "
                             "try again in a moment",
                             room_.uploads_));
  }
  ++room_.uploads_;
  ++room_.uploads_of_[user_];
  counted_ = true;
  return {};
}

Status Upload::claim(std::uint64_t bytes) {
  const std::uint64_t more = bytes - std::min(bytes, claimed_);
  if (const auto free = room_.free();
      free && *free < UploadRoom::kKeptFree + room_.claimed_ + more) {
    return error(ErrorCode::kExhausted, "The server's disk has no room for this upload");
  }
  claimed_ += more;
  room_.claimed_ += more;
  return {};
}

void Upload::wrote(std::uint64_t bytes) {
  const std::uint64_t known = std::min(bytes, claimed_);
  claimed_ -= known;
  room_.claimed_ -= known;
}

std::optional<std::uint64_t> free_bytes(const fs::path& folder) {
  struct statvfs disk {};
  if (::statvfs(folder.c_str(), &disk) != 0) {
    return std::nullopt;
  }
  return static_cast<std::uint64_t>(disk.f_bavail) * disk.f_frsize;
}

std::size_t sweep_uploads(const fs::path& folder) {
  std::vector<fs::path> left;
  std::error_code failure;
  for (fs::directory_iterator it(folder, failure), end; !failure && it != end;
       it.increment(failure)) {
    if (it->path().filename().string().find(kTemporary) != std::string::npos) {
      left.push_back(it->path());
    }
  }
  return static_cast<std::size_t>(std::count_if(
      left.begin(), left.end(), [&](const fs::path& file) { return fs::remove(file, failure); }));
}

std::string temporary_of(const fs::path& blob) {
  return fmt::format("{}{}{}", blob.string(), kTemporary, random_hex(6));
}

}  // namespace quad::server
