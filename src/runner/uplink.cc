#include "runner/uplink.h"

#include <algorithm>

namespace quad::runner {
namespace {

constexpr std::uint64_t kLogFrameBytes = 512U << 10U;
constexpr Millis kLastWaits{10'000};

}  // namespace

void Uplink::tick(MonoTime now) {
  connection_.tick(now);
  if (connection_.open() && !was_open_) {
    on_open();
  }
  was_open_ = connection_.open();
}

std::optional<MonoTime> Uplink::next_tick() const {
  if (connection_.state() == Connection::State::kWaiting) {
    return connection_.retry_at();
  }
  return std::nullopt;
}

void Uplink::on_ready(MonoTime now) {
  connection_.on_ready(now);
  if (connection_.open() && !was_open_) {
    on_open();
  }
  was_open_ = connection_.open();
}

void Uplink::on_open() {
  control_ = encode_message(hello_());
  control_sent_ = 0;
  for (const Kept& kept : kept_) {
    control_ += kept.frame;
  }
  frame_header_.clear();
  frame_rest_.clear();
  send_offset_ = frame_end_ = spool_.front();
  told_gap_.reset();
}

std::optional<json::object> Uplink::next_message(MonoTime now) {
  for (;;) {
    auto next = connection_.frames().next_view();
    if (!next.ok()) {
      connection_.fail(next.error().message, now);
      connection_.frames().reset();
      return std::nullopt;
    }
    if (!next.value().has_value()) {
      return std::nullopt;
    }
    const FrameView frame = *next.value();
    if (frame.type == kAckFrame) {
      if (auto offset = decode_ack(frame.payload); offset.ok()) {
        take_acknowledged(offset.value());
      }
      continue;
    }
    if (frame.type != kJsonFrame) {
      continue;
    }
    auto message = decode_message(frame.payload);
    if (!message.ok()) {
      continue;
    }
    if (get_string(message.value(), "type") == "ack") {
      const auto seq = static_cast<std::uint64_t>(get_int(message.value(), "seq"));
      while (!kept_.empty() && kept_.front().seq <= seq) {
        kept_.pop_front();
      }
      continue;
    }
    return std::move(message).value();
  }
}

void Uplink::take_acknowledged(std::uint64_t offset) {
  if (offset > send_offset_) {
    before_append();  // a server that has more than this connection sent: the frame may lie below
                      // it
  }
  spool_.acknowledge(offset);
  if (frame_rest_.empty() && frame_header_.empty()) {
    send_offset_ = std::max(send_offset_, spool_.front());
  }
}

void Uplink::post(json::object message) {
  message["seq"] = next_seq_;
  kept_.push_back({next_seq_, encode_message(message)});
  ++next_seq_;
  if (was_open_) {
    control_ += kept_.back().frame;
  }
}

void Uplink::note(std::string_view kind, std::string_view message) {
  post({{"type", "note"}, {"kind", kind}, {"message", message}});
}

void Uplink::post_last(json::object message, MonoTime now) {
  last_ = std::move(message);
  last_at_latest_ = now + kLastWaits;
}

void Uplink::tell(const json::object& message) {
  if (was_open_) {
    control_ += encode_message(message);
  }
}

void Uplink::before_append() {
  if (!was_open_ || send_offset_ >= frame_end_ || !frame_rest_.empty()) {
    return;
  }
  pieces_.clear();
  std::uint64_t at = send_offset_;
  std::string rest;
  while (at < frame_end_) {
    pieces_.clear();
    spool_.view(at, static_cast<std::size_t>(frame_end_ - at), pieces_);
    for (const iovec& piece : pieces_) {
      rest.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
      at += piece.iov_len;
    }
  }
  frame_rest_ = std::move(rest);
}

bool Uplink::wants_to_send() const {
  return control_sent_ < control_.size() || !frame_header_.empty() || !frame_rest_.empty() ||
         send_offset_ < spool_.end();
}

void Uplink::queue_gap() {
  const std::optional<Gap> gap = spool_.gap();
  if (gap.has_value() && gap != told_gap_) {
    told_gap_ = gap;
    control_ += encode_message({{"type", "gap"}, {"from", gap->from}, {"to", gap->to}});
  }
  send_offset_ = std::max(send_offset_, spool_.front());
}

bool Uplink::send_control(MonoTime now) {
  const iovec piece{control_.data() + control_sent_, control_.size() - control_sent_};
  const std::size_t put = connection_.send(&piece, 1, now);
  control_sent_ += put;
  if (control_sent_ == control_.size()) {
    control_.clear();
    control_sent_ = 0;
  }
  return put > 0;
}

// Sends of the log frame that is begun. False when nothing went.
bool Uplink::send_log(MonoTime now) {
  pieces_.clear();
  if (!frame_header_.empty()) {
    pieces_.push_back({frame_header_.data(), frame_header_.size()});
  }
  if (!frame_rest_.empty()) {
    pieces_.push_back({frame_rest_.data(), frame_rest_.size()});
  } else {
    spool_.view(send_offset_, static_cast<std::size_t>(frame_end_ - send_offset_), pieces_);
  }
  std::size_t put = connection_.send(pieces_.data(), static_cast<int>(pieces_.size()), now);
  if (put == 0) {
    return false;
  }
  const std::size_t of_header = std::min(put, frame_header_.size());
  frame_header_.erase(0, of_header);
  put -= of_header;
  send_offset_ += put;
  if (!frame_rest_.empty()) {
    frame_rest_.erase(0, put);
  }
  return true;
}

void Uplink::pump(MonoTime now) {
  while (connection_.open()) {
    const bool in_frame =
        !frame_header_.empty() || !frame_rest_.empty() || send_offset_ < frame_end_;
    if (in_frame) {
      if (!send_log(now)) {
        break;
      }
      continue;
    }
    queue_gap();
    if (last_.has_value() && (send_offset_ == spool_.end() || now >= last_at_latest_)) {
      post(std::move(*last_));
      last_.reset();
    }
    if (!control_.empty()) {
      if (!send_control(now)) {
        break;
      }
      continue;
    }
    if (send_offset_ == spool_.end()) {
      break;
    }
    // A frame is what lies together: a piece of a file, or chunks of memory.
    pieces_.clear();
    const std::size_t size = spool_.view(send_offset_, kLogFrameBytes, pieces_);
    const auto header = encode_log_header(send_offset_, size);
    frame_header_.assign(header.data(), header.size());
    frame_end_ = send_offset_ + size;
  }
  was_open_ = connection_.open();
}

}  // namespace quad::runner
