#include "runner/spool.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/check.h"

namespace quad::runner {
namespace {

constexpr std::size_t kScratch = 256U << 10U;
constexpr std::uint64_t kLongestLine = 64U << 10U;  // further than this no line end is looked for

}  // namespace

Spool::Spool(std::filesystem::path folder, SpoolLimits limits)
    : folder_(std::move(folder)),
      limits_(limits),
      segment_bytes_(std::clamp<std::uint64_t>(limits.spool_bytes / 8, kChunk, 8U << 20U)) {
  limits_.memory_bytes =
      std::max<std::uint64_t>(std::min(limits_.memory_bytes, limits_.spool_bytes), kChunk);
}

Spool::~Spool() {
  for (const Segment& segment : segments_) {
    ::unlink(segment.path.c_str());
  }
}

bool Spool::memory_full() const {
  return !chunks_.empty() && end_ - chunks_.front().begin >= limits_.memory_bytes;
}

bool Spool::over_bound() const {
  return end_ - front_ + kChunk > std::max<std::uint64_t>(limits_.spool_bytes, kChunk);
}

bool Spool::room_may_drop() const {
  return (chunks_.empty() || chunks_.back().size == kChunk) && (memory_full() || over_bound());
}

Spool::Room Spool::room() {
  if (chunks_.empty() || chunks_.back().size == kChunk) {
    make_room();
    Chunk chunk;
    // Not value-initialised: pages that stay unused cost nothing.
    chunk.data = spare_ ? std::move(spare_) : std::unique_ptr<char[]>(new char[kChunk]);
    chunk.begin = end_;
    chunks_.push_back(std::move(chunk));
  }
  Chunk& last = chunks_.back();
  return {last.data.get() + last.size, kChunk - last.size};
}

void Spool::commit(std::size_t count) {
  QUAD_CHECK(!chunks_.empty() && chunks_.back().size + count <= kChunk,
             "more output was committed than there was room for");
  chunks_.back().size += count;
  end_ += count;
}

void Spool::append(std::string_view bytes) {
  while (!bytes.empty()) {
    const Room space = room();
    const std::size_t count = std::min(space.size, bytes.size());
    std::memcpy(space.data, bytes.data(), count);
    commit(count);
    bytes.remove_prefix(count);
  }
}

void Spool::make_room() {
  while (memory_full()) {
    if (!spill_oldest()) {
      drop_oldest(std::max<std::uint64_t>(kChunk, limits_.memory_bytes / 16));
    }
  }
  if (over_bound()) {
    drop_oldest(std::max<std::uint64_t>(kChunk, limits_.spool_bytes / 16));
  }
}

bool Spool::spill_oldest() {
  Chunk& chunk = chunks_.front();
  if (segments_.empty() || segments_.back().size >= segment_bytes_) {
    Segment segment;
    segment.path = folder_ / fmt::format("spool.{}", next_segment_++);
    segment.fd = UniqueFd(
        ::open(segment.path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!segment.fd) {
      trouble_ = errno_error("Output cannot be spooled to disk", errno).message;
      return false;
    }
    segment.begin = chunk.begin;
    segments_.push_back(std::move(segment));
  }
  Segment& segment = segments_.back();
  std::size_t done = 0;
  while (done < chunk.size) {
    const ssize_t put = ::pwrite(segment.fd.get(), chunk.data.get() + done, chunk.size - done,
                                 static_cast<off_t>(segment.size + done));
    if (put < 0 && errno == EINTR) {
      continue;
    }
    if (put <= 0) {
      trouble_ = errno_error("Output cannot be spooled to disk", put < 0 ? errno : ENOSPC).message;
      if (segment.size == 0) {
        ::unlink(segment.path.c_str());
        segments_.pop_back();
      }
      return false;
    }
    done += static_cast<std::size_t>(put);
  }
  trouble_.clear();
  segment.size += chunk.size;
  spare_ = std::move(chunk.data);
  chunks_.pop_front();
  return true;
}

std::uint64_t Spool::line_start_after(std::uint64_t offset) {
  const std::uint64_t limit = std::min(end_, offset + kLongestLine);
  std::vector<iovec> pieces;
  for (std::uint64_t at = offset; at < limit;) {
    pieces.clear();
    const std::size_t got = view(at, static_cast<std::size_t>(limit - at), pieces);
    std::uint64_t begin = at;
    for (const iovec& piece : pieces) {
      if (const void* found = std::memchr(piece.iov_base, '\n', piece.iov_len)) {
        return begin +
               static_cast<std::uint64_t>(static_cast<const char*>(found) -
                                          static_cast<const char*>(piece.iov_base)) +
               1;
      }
      begin += piece.iov_len;
    }
    if (got == 0) {
      break;
    }
    at += got;
  }
  return offset;
}

void Spool::drop_oldest(std::uint64_t bytes) {
  const std::uint64_t from = gap_.has_value() ? gap_->from : front_;
  const std::uint64_t to = line_start_after(std::min(end_, front_ + bytes));
  forget_below(to);
  gap_ = Gap{from, to};
}

void Spool::forget_below(std::uint64_t offset) {
  front_ = std::max(front_, offset);
  while (!segments_.empty() && segments_.front().begin + segments_.front().size <= front_) {
    ::unlink(segments_.front().path.c_str());
    segments_.pop_front();
  }
  while (!chunks_.empty() && chunks_.front().begin + chunks_.front().size <= front_) {
    if (chunks_.size() == 1) {
      // All is acknowledged: the chunk starts again from its beginning, whose pages are there
      // already.
      chunks_.front().begin = end_;
      chunks_.front().size = 0;
      break;
    }
    spare_ = std::move(chunks_.front().data);
    chunks_.pop_front();
  }
}

void Spool::acknowledge(std::uint64_t offset) {
  if (offset > end_) {
    offset = end_;  // a server that claims more than was ever written is not believed
  }
  if (gap_.has_value() && offset >= gap_->to) {
    gap_.reset();
  }
  if (offset > front_) {
    forget_below(offset);
  }
}

std::size_t Spool::view(std::uint64_t offset, std::size_t max_bytes, std::vector<iovec>& pieces) {
  QUAD_CHECK(offset >= front_ && offset <= end_, "output was asked for that is not held");
  if (!segments_.empty() && offset < segments_.back().begin + segments_.back().size) {
    for (const Segment& segment : segments_) {
      if (offset >= segment.begin + segment.size) {
        continue;
      }
      const std::uint64_t at = offset - segment.begin;
      const auto count = static_cast<std::size_t>(
          std::min<std::uint64_t>({segment.size - at, max_bytes, kScratch}));
      if (scratch_.size() < count) {
        scratch_.resize(kScratch);
      }
      std::size_t got = 0;
      while (got < count) {
        const ssize_t read = ::pread(segment.fd.get(), scratch_.data() + got, count - got,
                                     static_cast<off_t>(at + got));
        if (read < 0 && errno == EINTR) {
          continue;
        }
        if (read <= 0) {
          // The disk lost what it had taken. The bytes' places are kept, so that offsets stay true.
          std::memset(scratch_.data() + got, '?', count - got);
          break;
        }
        got += static_cast<std::size_t>(read);
      }
      pieces.push_back({scratch_.data(), count});
      return count;
    }
  }
  std::size_t total = 0;
  for (const Chunk& chunk : chunks_) {
    if (total == max_bytes) {
      break;
    }
    if (chunk.size == 0 || offset >= chunk.begin + chunk.size) {
      continue;
    }
    const auto skip = static_cast<std::size_t>(offset - chunk.begin);
    const std::size_t count = std::min(chunk.size - skip, max_bytes - total);
    pieces.push_back({chunk.data.get() + skip, count});
    total += count;
    offset += count;
  }
  return total;
}

}  // namespace quad::runner
