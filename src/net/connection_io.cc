#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <charconv>

#include "net/connection.h"

namespace quad::net {

namespace {

constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
constexpr std::size_t kBodyBuffer = 128U << 10U;
constexpr std::size_t kWatchBuffer = 64U << 10U;
/// Up to here a body is copied behind its head, for one write instead of two parts.
constexpr std::size_t kSmallBody = 16U << 10U;

void append_number(std::string& out, std::uint64_t value, int base = 10) {
  std::array<char, 24> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value, base).ptr;
  out.append(text.data(), end);
}

/// A line break inside a header would end it and begin another one, of the attacker's choice.
void append_header_text(std::string& out, std::string_view text) {
  for (const char c : text) {
    out.push_back(c == '\r' || c == '\n' || c == '\0' ? ' ' : c);
  }
}

}  // namespace

asio::awaitable<IoResult> Connection::fill(std::size_t limit) {
  const auto space = input_.prepare(limit);
  if (space.empty()) {
    co_return IoResult{asio::error::no_buffer_space, 0};
  }
  const auto got = co_await transport_->read_some(space);
  input_.commit(got.bytes);
  co_return got;
}

asio::awaitable<Result<std::string_view>> Connection::read_piece() {
  if (body_broken_) {
    co_return error(ErrorCode::kUnavailable, "The request's body ended early.");
  }
  if (expects_continue_) {
    expects_continue_ = false;
    const bool sent = co_await send("HTTP/1.1 100 Continue\r\n\r\n");
    if (!sent) {
      body_broken_ = true;
      co_return error(ErrorCode::kUnavailable, "The client has gone away.");
    }
  }
  while (!parser_->is_done()) {
    ErrorValue failure;
    const bool progress = parser_->advance(input_, failure);
    if (failure) {
      body_broken_ = linger_ = true;
      co_return error(ErrorCode::kInvalid,
                      "The request's body is not valid HTTP/1.1 (" + failure.message() + ").");
    }
    if (!parser_->piece().empty()) {
      co_return parser_->piece();
    }
    if (progress) {
      continue;
    }
    const auto& options = state_->options;
    const auto earned =
        Millis(body_received_ * 1000 / std::max<std::uint64_t>(options.least_body_rate, 1));
    const auto left = std::max(Millis(0), options.body_timeout + earned - body_waited_);
    transport_->set_read_deadline(state_->ticker->after(std::min(options.body_timeout, left)));
    const auto began = std::chrono::steady_clock::now();
    const auto got = co_await fill(kBodyBuffer);
    transport_->set_read_deadline(Transport::kNever);
    body_waited_ += std::chrono::duration_cast<Millis>(std::chrono::steady_clock::now() - began);
    body_received_ += got.bytes;
    if (got.failure) {
      body_broken_ = true;
      if (timed_out_) {
        linger_ = true;
        co_return error(ErrorCode::kTimeout, "The request's body took too long to arrive.");
      }
      gone_ = gone_ || got.failure != asio::error::eof;
      co_return error(ErrorCode::kUnavailable, "The request's body ended early.");
    }
  }
  co_return std::string_view{};
}

/// Into request_.body. False if that failed; the refusal is then set.
asio::awaitable<bool> Connection::read_whole_body(std::uint64_t limit) {
  const auto too_large = [&] {
    refuse(413, "exhausted",
           "The request's body is larger than the " + std::to_string(limit) +
               " bytes that are allowed here.");
  };
  const auto promised = parser_->content_length();
  if (promised.has_value() && *promised > limit) {
    too_large();
    co_return false;
  }
  if (!hold_body(promised.value_or(0))) {
    co_return false;
  }
  while (!parser_->is_done()) {
    const auto piece = co_await read_piece();
    if (!piece.ok()) {
      refuse(piece.error().code == ErrorCode::kTimeout ? 408 : 400, to_string(piece.error().code),
             piece.error().message);
      co_return false;
    }
    if (request_.body.size() + piece->size() > limit) {
      too_large();
      co_return false;
    }
    if (!hold_body(request_.body.size() + piece->size())) {
      co_return false;
    }
    request_.body += *piece;
  }
  co_return true;
}

bool Connection::hold_body(std::uint64_t bytes) {
  // Small ones are bounded by the connections, and large ones counted in steps.
  constexpr std::uint64_t kSmall = 64U << 10U;
  constexpr std::uint64_t kStep = 1U << 20U;
  if (bytes <= std::max(kSmall, held_)) {
    return true;
  }
  const std::uint64_t wanted = (bytes + kStep - 1) / kStep * kStep;
  if (held_ == 0) {
    holder_ = guest_ ? (*guest_)->owner : std::string();
  }
  if (const Status held = state_->hold(holder_, wanted - held_); !held.ok()) {
    refuse_busy(held.error());
    return false;
  }
  held_ = wanted;
  return true;
}

void Connection::release_body() {
  if (held_ > 0) {
    state_->release(holder_, std::exchange(held_, 0));
  }
}

/// Reads what the handler left of the body, which is known to be little. False if that failed.
asio::awaitable<bool> Connection::drain_body() {
  while (!parser_->is_done()) {
    const auto piece = co_await read_piece();
    if (!piece.ok()) {
      co_return false;
    }
  }
  co_return true;
}

asio::awaitable<bool> Connection::send(std::string_view first, std::string_view second) {
  if (gone_) {
    co_return false;
  }
  const auto sent = co_await transport_->write(first, second);
  bytes_out_ += sent.bytes;
  if (sent.failure) {
    gone_ = true;
    announce_closed();
  }
  co_return !sent.failure;
}

void Connection::begin_head(int status, std::string_view content_type) {
  status_ = status;
  out_.clear();
  out_ += "HTTP/1.1 ";
  append_number(out_, static_cast<std::uint64_t>(status));
  out_ += ' ';
  out_ += reason_phrase(status);
  out_ += "\r\nDate: ";
  out_ += state_->date;
  out_ += "\r\n";
  if (!content_type.empty()) {
    add_header("Content-Type", content_type);
  }
}

void Connection::add_header(std::string_view name, std::string_view value) {
  append_header_text(out_, name);
  out_ += ": ";
  append_header_text(out_, value);
  out_ += "\r\n";
}

asio::awaitable<void> Connection::send_response(bool keep) {
  const std::string_view body =
      response_.shared_body != nullptr ? *response_.shared_body : response_.body;
  const bool bodiless = response_.status == 204 || response_.status == 304;
  begin_head(response_.status, response_.content_type);
  for (const auto& [name, value] : response_.headers) {
    add_header(name, value);
  }
  if (!bodiless) {
    out_ += "Content-Length: ";
    append_number(out_, body.size());
    out_ += "\r\n";
  }
  if (!keep) {
    out_ += "Connection: close\r\n";
  } else if (!parser_->http_1_1()) {
    out_ += "Connection: keep-alive\r\n";
  }
  out_ += "\r\n";
  if (is_head() || bodiless) {
    co_await send(out_);
  } else if (body.size() <= kSmallBody) {
    out_ += body;
    co_await send(out_);
  } else {
    co_await send(out_, body);
  }
}

asio::awaitable<Status> Connection::write_chunk(std::string_view chunk) {
  if (closed()) {
    co_return error(ErrorCode::kUnavailable,
                    told_stop_ && !gone_ ? "The server is stopping." : "The client has gone away.");
  }
  if (stream_writing_) {
    co_return error(ErrorCode::kInternal, "A stream takes one write at a time.");
  }
  if (chunk.empty()) {
    co_return Status();
  }
  stream_writing_ = true;
  bool sent = false;
  if (!chunked_) {
    sent = co_await send(chunk);
  } else {
    out_.clear();
    append_number(out_, chunk.size(), 16);
    out_ += "\r\n";
    if (chunk.size() <= kSmallBody) {
      out_ += chunk;
      out_ += "\r\n";
      sent = co_await send(out_);
    } else {
      sent = co_await send(out_, chunk);
      if (sent) {
        sent = co_await send("\r\n");
      }
    }
  }
  stream_writing_ = false;
  if (!sent) {
    co_return error(ErrorCode::kUnavailable, timed_out_ ? "The client took nothing for too long."
                                                        : "The client has gone away.");
  }
  co_return Status();
}

asio::awaitable<void> Connection::watch(std::shared_ptr<Connection> self) {
  while (!self->watch_stop_) {
    const auto space = self->input_.prepare(kWatchBuffer);
    if (space.empty()) {
      break;  // the client sends ahead more than we hold: only a failing write will tell
    }
    const auto got = co_await self->transport_->read_some(space);
    self->input_.commit(got.bytes);
    if (got.failure) {
      if (!self->watch_stop_) {
        self->gone_ = true;
        self->announce_closed();
      }
      break;
    }
  }
  self->watching_ = false;
  self->closed_signal_.cancel();
}

void Connection::start_watch() {
  watch_stop_ = false;
  if (watching_ || gone_ || answer_ == Answer::kRaw || !parser_->is_done()) {
    return;
  }
  watching_ = true;
  asio::co_spawn(state_->io, watch(shared_from_this()), asio::detached);
}

/// Ends the watch, so that others may read.
asio::awaitable<void> Connection::settle_watch() {
  if (!watching_) {
    co_return;
  }
  watch_stop_ = true;
  transport_->cancel_reading();
  while (watching_) {
    co_await closed_signal_.async_wait(kToken);
  }
}

void Connection::announce_closed() {
  closed_signal_.cancel();
  const auto callbacks = std::exchange(closed_callbacks_, {});
  for (const auto& callback : callbacks) {
    callback();
  }
}

asio::awaitable<void> Connection::wait_closed() {
  while (!closed()) {
    co_await closed_signal_.async_wait(kToken);
  }
}

void Connection::on_closed(std::function<void()> callback) {
  if (closed()) {
    callback();
  } else {
    closed_callbacks_.push_back(std::move(callback));
  }
}

}  // namespace quad::net
