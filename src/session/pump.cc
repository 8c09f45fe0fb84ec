#include "session/pump.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace quad::session {
namespace {

/// What waits to be sent may be so much before nothing more is read here.
constexpr std::size_t kMostOutgoing = 256U << 10U;
/// And so much if the other end has asked for it by messages. No good one comes near it.
constexpr std::size_t kMostAnswers = runner::kMaxPayload + kMostOutgoing;
constexpr int kRounds = 16;  // of reading or writing one descriptor, before the others have a turn

bool is_ready(int fd, int events) {
  pollfd polled{fd, static_cast<short>(events), 0};
  return ::poll(&polled, 1, 0) > 0 && (polled.revents & events) != 0;
}

}  // namespace

void Pump::attach(StreamId id, LocalEnd local) {
  mux_.open(id);
  End end;
  end.local = std::move(local);
  for (const int fd : {end.local.from.get(), end.local.to.get()}) {
    if (fd >= 0 && !end.local.borrowed) {
      ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
    }
  }
  struct stat facts {};
  end.regular = end.local.to && ::fstat(end.local.to.get(), &facts) == 0 && S_ISREG(facts.st_mode);
  end.end_told = !end.local.from;
  end.gave_end = !end.local.to;
  ends_[id] = std::move(end);
}

void Pump::cut(StreamId id) {
  mux_.cut(id);
  drop(id, true);
}

void Pump::drop(StreamId id, bool reset) {
  const auto it = ends_.find(id);
  if (it == ends_.end()) {
    return;
  }
  if (reset && it->second.local.kind == LocalEnd::Kind::kSocket) {
    const linger at_once{1, 0};
    const int fd = it->second.local.from ? it->second.local.from.get() : it->second.local.to.get();
    ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  }
  ends_.erase(it);
}

void Pump::settle(StreamId id) {
  const auto it = ends_.find(id);
  if (it != ends_.end() && it->second.end_told && it->second.gave_end) {
    mux_.close(id);
    ends_.erase(it);
  }
}

bool Pump::reads(StreamId id) const {
  const auto it = ends_.find(id);
  return it != ends_.end() && !it->second.end_told;
}

bool Pump::readable(StreamId id) const {
  const auto it = ends_.find(id);
  return it != ends_.end() && it->second.local.from &&
         is_ready(it->second.local.from.get(), POLLIN);
}

bool Pump::holds_bytes() const {
  return std::any_of(ends_.begin(), ends_.end(), [](const auto& one) {
    return one.second.written < one.second.pending.size();
  });
}

void Pump::end_reading(StreamId id) {
  const auto it = ends_.find(id);
  if (it != ends_.end() && !it->second.end_told) {
    it->second.end_told = true;
    it->second.local.from.reset();
    mux_.end(id);
    settle(id);
  }
}

void Pump::read_from(StreamId id, End& end) {
  for (int round = 0; round < kRounds; ++round) {
    const std::size_t room = mux_.room(id);
    if (room == 0 || mux_.outgoing().size() >= kMostOutgoing) {
      return;
    }
    const ssize_t got = ::read(end.local.from.get(), buffer_.data(), room);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      return;
    }
    if (got < 0 && errno != EIO) {
      cut(id);
      return;
    }
    if (got <= 0) {  // EIO: nobody has the PTY open any more
      end_reading(id);
      return;
    }
    moved_ += static_cast<std::size_t>(got);
    mux_.send(id, {buffer_.data(), static_cast<std::size_t>(got)});
    if (end.local.borrowed || static_cast<std::size_t>(got) < room) {
      return;  // a borrowed one may block
    }
  }
}

bool Pump::write_to(StreamId id, End& end) {
  const int fd = end.local.to.get();
  const bool in_pieces = end.local.borrowed && !end.regular;
  for (int round = 0; end.written < end.pending.size() && round < kRounds; ++round) {
    std::size_t size = end.pending.size() - end.written;
    if (in_pieces) {
      size = std::min<std::size_t>(size, PIPE_BUF);
      if (!is_ready(fd, POLLOUT | POLLERR)) {
        break;
      }
    }
    const ssize_t put = ::write(fd, end.pending.data() + end.written, size);
    if (put < 0 && errno == EINTR) {
      continue;
    }
    if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      break;
    }
    if (put < 0) {
      cut(id);
      return false;
    }
    end.written += static_cast<std::size_t>(put);
    mux_.taken(id, static_cast<std::size_t>(put));
  }
  if (end.written == end.pending.size()) {
    end.pending.clear();
    end.written = 0;
    if (end.end_came) {
      give_end(end);
      settle(id);
    }
  }
  return true;
}

void Pump::give_end(End& end) {
  if (std::exchange(end.gave_end, true)) {
    return;
  }
  switch (end.local.kind) {
    case LocalEnd::Kind::kPipe:
      break;
    case LocalEnd::Kind::kSocket:
      ::shutdown(end.local.to.get(), SHUT_WR);
      break;
    case LocalEnd::Kind::kTerminal: {
      constexpr char kEndOfInput = 4;
      (void)!::write(end.local.to.get(), &kEndOfInput, 1);
      break;
    }
  }
  end.local.to.reset();
}

Status Pump::take_frames() {
  for (;;) {
    QUAD_ASSIGN(const auto frame, carrier_.frames().next_view());
    if (!frame.has_value()) {
      return {};
    }
    QUAD_ASSIGN(const Mux::Happening happening, mux_.take(*frame));
    if (const auto* data = std::get_if<Mux::Data>(&happening)) {
      const auto it = ends_.find(data->id);
      if (it == ends_.end() || it->second.gave_end || it->second.end_came) {
        mux_.taken(data->id, data->bytes.size());  // nobody wants it
        continue;
      }
      moved_ += data->bytes.size();
      End& end = it->second;
      end.pending.erase(0, std::exchange(end.written, 0));
      end.pending += data->bytes;
      (void)write_to(data->id, end);
    } else if (const auto* ended = std::get_if<Mux::Ended>(&happening)) {
      if (const auto it = ends_.find(ended->id); it != ends_.end()) {
        it->second.end_came = true;
        (void)write_to(ended->id, it->second);
      }
    } else if (const auto* cut_one = std::get_if<Mux::Cut>(&happening)) {
      drop(cut_one->id, true);
    } else if (const auto* message = std::get_if<json::object>(&happening)) {
      const std::string_view type = get_string(*message, "type");
      if (type == "ping") {
        mux_.say({{"type", "pong"}});
      } else if (type == "pong") {
        if (watch_) {
          watch_->answers = true;
        }
      } else if (on_message) {
        on_message(*message);
      }
    }
    if (mux_.outgoing().size() > kMostAnswers) {
      return error(ErrorCode::kInvalid, "The other end asks for more answers than it takes");
    }
  }
}

Status Pump::flush() {
  while (!mux_.outgoing().empty()) {
    QUAD_ASSIGN(const std::size_t put, carrier_.send(mux_.outgoing()));
    if (put == 0) {
      break;
    }
    mux_.sent(put);
  }
  return {};
}

Status Pump::exchange(bool has_come) {
  QUAD_TRY(flush());
  // Before what has come is looked at: it may be the end, after which nobody sends any more.
  if (has_come) {
    const Status received = carrier_.receive();
    QUAD_TRY(take_frames());
    QUAD_TRY(received);
  }
  return flush();
}

void Pump::watch_over(const Clock& clock, Millis quiet, Millis answer, Millis idle) {
  const MonoTime now = clock.now().mono;
  watch_.emplace(Watch{clock, quiet, answer, idle, now, std::nullopt, false, moved_, now});
  ask();  // to learn whether it answers
}

void Pump::ask() {
  mux_.say({{"type", "ping"}});
}

Millis Pump::until_look(MonoTime now) const {
  const Millis next =
      watch_->asked ? *watch_->asked + watch_->answer - now : watch_->heard + watch_->quiet - now;
  return std::min(next, watch_->moved_at + watch_->idle - now);
}

Status Pump::look(bool has_come) {
  const MonoTime now = watch_->clock.now().mono;
  if (has_come) {
    watch_->heard = now;
    watch_->asked.reset();
  }
  if (watch_->moved != moved_) {
    watch_->moved = moved_;
    watch_->moved_at = now;
  }
  if (now - watch_->moved_at >= watch_->idle) {
    return error(ErrorCode::kUnavailable,
                 fmt::format("Nothing has moved for {}", format_duration(watch_->idle)));
  }
  // A process that stood still meanwhile finds the answer there, so it is not misled.
  if (watch_->asked && watch_->answers && now - *watch_->asked >= watch_->answer) {
    return error(ErrorCode::kUnavailable, fmt::format("The other end has not answered for {}",
                                                      format_duration(watch_->answer)));
  }
  if (!watch_->asked && now - watch_->heard >= watch_->quiet) {
    watch_->asked = now;
    ask();
    return flush();
  }
  if (watch_->asked && now - *watch_->asked >= watch_->answer) {
    watch_->asked = now;  // one that does not answer; the connection itself may still tell
  }
  return {};
}

void Pump::dismiss(const json::object& message) {
  dismissed_ = true;
  over_ = false;
  ends_.clear();
  mux_.say(message);
}

Status Pump::see_off(bool has_come) {
  QUAD_TRY(flush());
  if (mux_.outgoing().empty()) {
    ::shutdown(carrier_.fd(), SHUT_WR);
  }
  // What still comes is taken, as closing before that could take our last words with it.
  if (has_come) {
    Status received = carrier_.receive();
    carrier_.frames().reset();
    return received;
  }
  return {};
}

Status Pump::step(std::vector<pollfd>& more, Millis timeout, const sigset_t* unblocked) {
  if (watch_ && !over_) {
    timeout = std::min(timeout, until_look(watch_->clock.now().mono));
  }
  std::vector<pollfd> polled;
  std::vector<std::pair<StreamId, bool>> whose;  // and whether it is `from`
  const short out = mux_.outgoing().empty() ? 0 : POLLOUT;
  polled.push_back({over_ ? -1 : carrier_.fd(), static_cast<short>(POLLIN | out), 0});
  const bool full = over_ || mux_.outgoing().size() >= kMostOutgoing;
  for (const auto& [id, end] : ends_) {
    if (!end.end_told && !full && mux_.room(id) > 0) {
      polled.push_back({end.local.from.get(), POLLIN, 0});
      whose.emplace_back(id, true);
    }
    const bool waits = end.written < end.pending.size();
    // A pipe tells by an error that its reader is gone, also when there is nothing to write.
    if (!end.gave_end && (waits || end.local.kind == LocalEnd::Kind::kPipe)) {
      polled.push_back({end.local.to.get(), static_cast<short>(waits ? POLLOUT : 0), 0});
      whose.emplace_back(id, false);
    }
  }
  const std::size_t own = polled.size();
  polled.insert(polled.end(), more.begin(), more.end());
  const bool buffered = !over_ && carrier_.buffered();
  const std::int64_t wait = buffered ? 0 : std::max<std::int64_t>(timeout.count(), 0);
  const timespec time{wait / 1000, (wait % 1000) * 1'000'000L};
  const int ready = ::ppoll(polled.data(), polled.size(), &time, unblocked);
  for (std::size_t i = 0; i < more.size(); ++i) {
    more[i].revents = ready > 0 ? polled[own + i].revents : static_cast<short>(0);
  }
  for (std::size_t i = 1; i < own && ready > 0; ++i) {
    const auto [id, from] = whose[i - 1];
    const auto it = ends_.find(id);
    if (polled[i].revents == 0 || it == ends_.end()) {
      continue;
    }
    End& end = it->second;
    const bool broken =
        (polled[i].revents & (POLLERR | POLLNVAL)) != 0 ||
        ((polled[i].revents & POLLHUP) != 0 && end.local.kind == LocalEnd::Kind::kPipe);
    if (from && !end.end_told) {
      read_from(id, end);
    } else if (!from && !end.gave_end && broken) {
      cut(id);
    } else if (!from && !end.gave_end) {
      (void)write_to(id, end);
    }
  }
  if (over_) {
    return {};
  }
  const bool has_come = ready > 0 && (polled[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0;
  Status exchanged = dismissed_ ? see_off(has_come || buffered) : exchange(has_come || buffered);
  if (watch_ && exchanged.ok()) {
    exchanged = look(has_come || buffered);
  }
  over_ = !exchanged.ok();
  return exchanged;
}

}  // namespace quad::session
