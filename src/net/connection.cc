#include "net/connection.h"

#include <boost/beast/http/error.hpp>
#include <exception>

namespace quad::net {

namespace {

using SteadyClock = std::chrono::steady_clock;

/// How much of a body that nobody wants is read, to keep the connection.
constexpr std::uint64_t kDrainLimit = 64U << 10U;
constexpr Millis kLingerTime{2000};
constexpr Millis kRejectTimeout{2000};

std::string what_of(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "an exception of an unknown type";
  }
}

/// The path and query of a target, which may also come as a whole URL.
std::string_view origin_form(std::string_view target) {
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (target.size() > scheme.size() &&
        equal_ignoring_case(target.substr(0, scheme.size()), scheme)) {
      const auto slash = target.find('/', scheme.size());
      return slash == std::string_view::npos ? "/" : target.substr(slash);
    }
  }
  return target;
}

}  // namespace

Connection::Connection(std::shared_ptr<ServerState> state, std::shared_ptr<asio::ssl::context> tls,
                       StreamSocket socket, bool reject, bool local)
    : state_(std::move(state)),
      place_(state_->connections.insert(state_->connections.end(), this)),
      transport_(std::make_shared<Transport>(std::move(socket), state_->ticker,
                                             state_->options.write_timeout)),
      tls_(std::move(tls)),
      reject_(reject),
      local_(local),
      closed_signal_(state_->io, SteadyClock::time_point::max()) {
  tune_tcp(transport_->socket());
  peer_ = peer_name(transport_->socket());
  if (reject_) {
    ++state_->rejecting;
  } else {
    guest_ = state_->room(local_).enter(address_of_peer(peer_), this);
  }
  request_.peer = peer_;
  request_.peer_uid = peer_user(transport_->socket());
  request_.tls = tls_ != nullptr;
}

Connection::~Connection() {
  transport_->close();
  state_->connections.erase(place_);
  state_->rejecting -= reject_ ? 1 : 0;
  give_up_place();
  release_body();
  state_->connection_ended();
}

asio::awaitable<void> Connection::run() {
  const auto& options = state_->options;
  if (tls_ != nullptr) {
    transport_->set_read_deadline(state_->ticker->after(options.header_timeout));
    const auto failure = co_await transport_->handshake(*tls_);
    if (failure) {
      co_return;
    }
  }
  while (true) {
    const bool got_head = co_await read_head();
    if (!got_head) {
      break;
    }
    const bool again = co_await serve();
    if (!again) {
      break;
    }
    input_.shrink();
  }
  co_await finish();
}

asio::awaitable<bool> Connection::read_head() {
  const auto& options = state_->options;
  phase_ = Phase::kIdle;
  if (guest_) {
    (*guest_)->busy = false;
  }
  parser_.emplace(arena_, options.header_limit);
  transport_->set_read_deadline(
      state_->ticker->after(reject_ ? kRejectTimeout : options.idle_timeout));
  while (true) {
    if (phase_ == Phase::kIdle) {
      // Some clients send an empty line behind a body.
      while (!input_.empty() && (input_.view().front() == '\r' || input_.view().front() == '\n')) {
        input_.consume(1);
      }
      if (!input_.empty()) {
        phase_ = Phase::kHead;
        transport_->set_read_deadline(
            state_->ticker->after(reject_ ? kRejectTimeout : options.header_timeout));
      }
    }
    ErrorValue failure;
    const bool progress = parser_->advance(input_, failure);
    if (failure) {
      request_.method = request_.target = request_.path = request_.query = request_.route = {};
      request_.headers.clear();
      request_.parameters.clear();
      if (failure == boost::beast::http::error::header_limit) {
        refuse(431, "invalid",
               "The request's head is larger than " + std::to_string(options.header_limit) +
                   " bytes.");
      } else {
        refuse(400, "invalid", "The request is not valid HTTP/1.1 (" + failure.message() + ").");
      }
      transport_->set_read_deadline(Transport::kNever);
      co_await send_response(false);
      report(SteadyClock::now());
      co_return false;
    }
    if (parser_->is_header_done()) {
      transport_->set_read_deadline(Transport::kNever);
      co_return true;
    }
    if (progress) {
      continue;
    }
    if (phase_ == Phase::kIdle && state_->stopping) {
      co_return false;
    }
    const auto got = co_await fill(options.header_limit + 4096);
    if (got.failure) {
      if (timed_out_ && phase_ == Phase::kHead) {
        request_.method = {};
        refuse(408, "timeout", "The request's head took too long to arrive.");
        co_await send_response(false);
      }
      co_return false;
    }
  }
}

/// Fills in what the head says. False if it cannot be meant; the refusal is then set.
bool Connection::prepare_request() {
  arena_.publish(request_);
  request_.body = {};  // gives back the memory of a large one
  request_.parameters.clear();
  request_.route = {};
  request_.path = request_.query = {};
  decoded_parameters_.clear();
  answer_ = Answer::kNone;
  response_ = {};
  status_ = 0;
  bytes_out_ = 0;
  expects_continue_ = body_broken_ = false;
  body_waited_ = Millis(0);
  body_received_ = 0;

  const auto target = origin_form(request_.target);
  const auto question = target.find('?');
  request_.path = target.substr(0, question);
  if (question != std::string_view::npos) {
    request_.query = target.substr(question + 1);
    request_.query = request_.query.substr(0, request_.query.find('#'));
  }
  if (request_.path.find('%') != std::string_view::npos) {
    auto decoded = percent_decode(request_.path);
    if (!decoded.has_value() || decoded->find('\0') != std::string::npos) {
      refuse(400, "invalid", "The path has a broken percent escape.");
      return false;
    }
    decoded_path_ = *std::move(decoded);
    request_.path = decoded_path_;
  }
  if (parser_->has_transfer_encoding() && (!parser_->chunked() || !parser_->http_1_1())) {
    // The body's end is unknown, so nothing behind it can be trusted.
    body_broken_ = true;
    refuse(501, "unsupported", "The only Transfer-Encoding understood is chunked.");
    return false;
  }
  const auto host = request_.header("host");
  if (parser_->http_1_1() && !host.has_value()) {
    refuse(400, "invalid", "The request has no Host header.");
    return false;
  }
  if (const auto expect = request_.header("expect"); expect.has_value() && parser_->http_1_1()) {
    if (!equal_ignoring_case(*expect, "100-continue")) {
      refuse(417, "invalid", "The only expectation understood is 100-continue.");
      return false;
    }
    expects_continue_ = !parser_->is_done();
  }
  if (reject_) {
    refuse_busy(error(ErrorCode::kUnavailable,
                      "The server has no room for another connection; try again later."));
    return false;
  }
  return true;
}

/// The route, with its parameters decoded. Null if there is none; the refusal is then set.
const Route* Connection::find_route() {
  auto target = origin_form(request_.target);
  auto match = state_->router.match(request_.method, target.substr(0, target.find('?')));
  if (match.route != nullptr) {
    request_.route = match.route->pattern;
    for (std::size_t i = 0; i < match.arguments.size(); ++i) {
      auto value = match.arguments[i];
      if (value.find('%') != std::string_view::npos) {
        // The whole path has been decoded, so its parts can be.
        value = decoded_parameters_.emplace_back(percent_decode(value).value_or(std::string()));
      }
      request_.parameters.push_back({match.route->names[i], value});
    }
    return match.route;
  }
  const auto shown = "'" + std::string(request_.path.substr(0, 200)) + "'";
  if (match.allowed.empty()) {
    refuse(404, "not_found", "There is nothing at " + shown + ".");
  } else {
    refuse(405, "invalid",
           std::string(request_.method.substr(0, 40)) + " is not possible on " + shown +
               "; it allows " + match.allowed + ".");
    response_.headers.emplace_back("Allow", std::move(match.allowed));
  }
  return nullptr;
}

asio::awaitable<bool> Connection::serve() {
  phase_ = Phase::kExchange;
  if (guest_) {
    (*guest_)->busy = true;
  }
  const auto began = state_->options.on_access ? SteadyClock::now() : SteadyClock::time_point{};
  ++state_->counters.requests;
  Exchange exchange(this);
  if (prepare_request()) {
    const auto* route = find_route();
    if (const auto& filter = state_->router.filter(); filter) {
      const auto answer = std::exchange(answer_, Answer::kNone);
      try {
        filter(exchange);
      } catch (const std::exception& e) {
        state_->fault(std::string("The request filter threw: ") + e.what());
        refuse(500, "internal", "The server failed to answer; its log says why.");
      }
      if (answer_ == Answer::kNone) {
        answer_ = answer;
      }
    }
    if (answer_ == Answer::kNone && route->options.allow) {
      route->options.allow(exchange);
    }
    bool ready = answer_ == Answer::kNone;
    if (ready && route->options.body == BodyMode::kBuffered) {
      const auto own = route->options.body_limit;
      ready = co_await read_whole_body(own != 0 ? own : state_->options.body_limit);
    }
    if (ready) {
      co_await run_handler(exchange, route->handler);
      // They belong to the handler, which is no more: to send the rest of its answer may fail.
      closed_callbacks_.clear();
    }
    release_body();
  }
  const bool again = co_await finish_answer(exchange);
  report(began);
  co_return again;
}

asio::awaitable<void> Connection::run_handler(Exchange& exchange, const Handler& handler) {
  std::exception_ptr failure;
  try {
    co_await handler(exchange);
  } catch (...) {
    failure = std::current_exception();
  }
  if (cut_) {
    co_return;  // the exception is the cancellation
  }
  if (failure == nullptr) {
    if (answer_ == Answer::kNone && !gone_ && told_stop_) {
      refuse(503, "unavailable", "The server is stopping; try again later.");
    }
    if (answer_ != Answer::kNone || gone_) {
      co_return;
    }
  }
  const auto name = std::string(request_.method) + " " + std::string(request_.route);
  state_->fault(failure != nullptr ? "The handler of " + name + " threw: " + what_of(failure)
                                   : "The handler of " + name + " gave no answer.");
  if (answer_ == Answer::kStream || answer_ == Answer::kRaw) {
    gone_ = true;  // too late for a 500: break the connection
  } else {
    refuse(500, "internal", "The server failed to answer; its log says why.");
  }
}

/// Ends the exchange on the wire. True if another request may follow.
asio::awaitable<bool> Connection::finish_answer(Exchange& /*exchange*/) {
  co_await settle_watch();
  switch (answer_) {
    case Answer::kRaw:
      co_return false;
    case Answer::kStream: {
      if (gone_ || told_stop_) {
        co_return false;  // without the last chunk, so that the client knows that there was more
      }
      if (!chunked_) {
        co_return is_head() && keep_alive();
      }
      const bool sent = co_await send("0\r\n\r\n");
      if (!sent || !keep_alive()) {
        co_return false;
      }
      co_return co_await drain_body();
    }
    case Answer::kNone:
    case Answer::kResponse:
      break;
  }
  if (gone_) {
    co_return false;
  }
  const bool keep = keep_alive();
  co_await send_response(keep);
  if (!keep || gone_) {
    co_return false;
  }
  co_return co_await drain_body();
}

/// Whether the connection can serve another request, as far as is known now.
bool Connection::keep_alive() const {
  if (!parser_->keep_alive() || state_->stopping || reject_ || body_broken_ || gone_) {
    return false;
  }
  if (parser_->is_done()) {
    return true;
  }
  const auto left = parser_->content_length_remaining();
  return !expects_continue_ && left.has_value() && *left <= kDrainLimit;
}

asio::awaitable<void> Connection::finish() {
  phase_ = Phase::kClosing;
  if (!gone_ && transport_->open()) {
    transport_->set_read_deadline(state_->ticker->after(kLingerTime));
    linger_ = answer_ != Answer::kRaw && (linger_ || (parser_.has_value() && !parser_->is_done()));
    if (transport_->secure() || linger_) {
      co_await transport_->end_writing();
    }
    if (linger_ && transport_->open()) {
      co_await transport_->discard();
    }
  }
  transport_->close();
}

void Connection::refuse(int status, std::string_view code, std::string_view message) {
  response_ = error_response(status, code, message);
  answer_ = Answer::kResponse;
  linger_ = linger_ || status == 400 || status == 408 || status == 431;
}

void Connection::refuse_busy(const Error& why) {
  response_ = busy_response(why);
  answer_ = Answer::kResponse;
}

void Connection::give_up_place() {
  if (guest_) {
    state_->room(local_).leave(*guest_);
    guest_.reset();
  }
}

void Connection::send_away() {
  give_up_place();
  cut();
}

Status Connection::admit(std::string_view who, bool kept) {
  if (!guest_) {
    return {};
  }
  Room& room = state_->room(local_);
  room.belong(*guest_, who, kept);
  if (kept || who.empty()) {
    return {};
  }
  const auto let_go = [&](std::string_view owner) {
    const auto idle = room.idle_to_go(owner);
    if (idle) {
      ++state_->counters.rejected;
      (*idle)->connection->send_away();
    }
    return idle.has_value();
  };
  const std::string name(who);
  if (room.has_too_many(who) && !let_go(who)) {
    room.belong(*guest_, {}, false);
    return error(ErrorCode::kExhausted,
                 name + " has as many connections as one caller may have; close some of them");
  }
  if (room.have_too_many() && !let_go({})) {
    room.belong(*guest_, {}, false);
    return error(ErrorCode::kUnavailable,
                 "The server has no room for another connection; try again later");
  }
  return {};
}

void Connection::report(SteadyClock::time_point began) {
  if (state_->options.on_access) {
    const auto took =
        std::chrono::duration_cast<std::chrono::microseconds>(SteadyClock::now() - began);
    state_->options.on_access(AccessRecord{request_, status_, bytes_out_, took});
  }
}

void Connection::sweep() {
  if (watching_ && watch_stop_) {
    // Over TLS, a cancel can fall between two reads of one record and be missed.
    transport_->cancel_reading();
  }
  if (!transport_->overdue(state_->ticker->now)) {
    return;
  }
  timed_out_ = true;
  if (transport_->writing() || phase_ == Phase::kClosing || answer_ == Answer::kRaw) {
    gone_ = true;
    transport_->close();
    announce_closed();
  } else {
    transport_->set_read_deadline(Transport::kNever);
    transport_->cancel_reading();
  }
}

void Connection::tell_stop() {
  told_stop_ = true;
  announce_closed();
  if (phase_ == Phase::kIdle || phase_ == Phase::kHandshake ||
      (phase_ == Phase::kExchange && answer_ == Answer::kRaw)) {
    transport_->close();
  }
}

void Connection::cut() {
  cut_ = gone_ = true;
  told_stop_ = true;
  announce_closed();
  transport_->close();
  cancel_.emit(asio::cancellation_type::terminal);
}

}  // namespace quad::net
