#include "runner/output_reader.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace quad::runner {
namespace {

constexpr Millis kPatience{200};  // how long a rank may be held up for a server that keeps up
// What the server earns with each piece of this size that it takes: 50 MB/s keep up.
constexpr Millis kPatienceEarned{20};
constexpr std::uint64_t kPatienceBytes = 1U << 20U;
constexpr std::size_t kReadAtOnce = 2U << 20U;

}  // namespace

OutputReader::OutputReader(Spool& spool, Uplink& uplink)
    : spool_(spool), uplink_(uplink), patience_(kPatience) {}

bool OutputReader::holds_back(MonoTime now) {
  const bool may = spool_.memory_full() && !spool_.spilled() && uplink_.connection().open() &&
                   uplink_.backlog() > 0 && !draining_;
  if (!may && waits_since_) {
    patience_ -= now - *waits_since_;
    waits_since_.reset();
  }
  if (const std::uint64_t pieces = (spool_.front() - patience_front_) / kPatienceBytes;
      pieces > 0) {
    patience_front_ += pieces * kPatienceBytes;
    patience_ =
        std::min(kPatience, patience_ + kPatienceEarned * static_cast<std::int64_t>(pieces));
  }
  if (may && !waits_since_) {
    waits_since_ = now;
  }
  return may && now < *waits_since_ + patience_;
}

std::optional<MonoTime> OutputReader::holds_back_until(MonoTime now) const {
  if (!waits_since_ || now >= *waits_since_ + patience_) {
    return std::nullopt;
  }
  return *waits_since_ + patience_;
}

void OutputReader::read(RankProcess& rank, MonoTime now) {
  if (rank.output_fd() < 0) {
    return;
  }
  for (std::size_t total = 0; total < kReadAtOnce || rank.ended();) {
    if (spool_.room_may_drop()) {
      uplink_.before_append();
    }
    const Spool::Room room = spool_.room();
    const ssize_t got = ::read(rank.output_fd(), room.data, room.size);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0 && errno == EAGAIN) {
      break;
    }
    if (got <= 0) {
      rank.close_output();
      break;
    }
    spool_.commit(static_cast<std::size_t>(got));
    total += static_cast<std::size_t>(got);
    if (static_cast<std::size_t>(got) < room.size) {
      break;  // the pipe is empty, or nearly so
    }
    uplink_.pump(now);
    if (holds_back(now)) {
      break;
    }
  }
  if (!spool_.trouble().empty() && spool_.trouble() != told_trouble_) {
    told_trouble_ = spool_.trouble();
    uplink_.note("spool", told_trouble_);
  }
}

}  // namespace quad::runner
