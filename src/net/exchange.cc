#include "net/exchange.h"

#include "net/connection.h"

namespace quad::net {

Response busy_response(const Error& failure) {
  Response response = error_response(failure);
  response.headers.emplace_back("Retry-After", "1");
  return response;
}

Request& Exchange::request() {
  return connection_->request_;
}
const Request& Exchange::request() const {
  return connection_->request_;
}

std::string_view Exchange::parameter(std::string_view name) const {
  return connection_->request_.parameter(name);
}

Status Exchange::admit(std::string_view who, bool kept) {
  return connection_->admit(who, kept);
}

void Exchange::respond(Response response) {
  using Answer = Connection::Answer;
  if (connection_->answer_ == Answer::kStream || connection_->answer_ == Answer::kRaw) {
    connection_->state_->fault("A handler responded after it had begun a stream.");
    return;
  }
  connection_->response_ = std::move(response);
  connection_->answer_ = Answer::kResponse;
}

void Exchange::respond_error(const Error& failure) {
  respond(error_response(failure));
}

bool Exchange::responded() const {
  return connection_->answer_ != Connection::Answer::kNone;
}

asio::awaitable<Result<std::string_view>> Exchange::read_body_some() {
  auto* connection = connection_;
  const auto piece = co_await connection->read_piece();
  co_return piece;
}

asio::awaitable<Result<std::uint64_t>> Exchange::read_body_to(BodySink sink,
                                                              std::uint64_t max_bytes) {
  auto* connection = connection_;
  const auto too_large = [&] {
    return error(ErrorCode::kExhausted, "The request's body is larger than the " +
                                            std::to_string(max_bytes) +
                                            " bytes that are allowed here.");
  };
  const auto promised = connection->parser_->content_length();
  if (promised.has_value() && *promised > max_bytes) {
    co_return too_large();
  }
  std::uint64_t total = 0;
  while (true) {
    const auto piece = co_await connection->read_piece();
    if (!piece.ok()) {
      co_return piece.error();
    }
    if (piece->empty()) {
      co_return total;
    }
    total += piece->size();
    if (total > max_bytes) {
      co_return too_large();
    }
    auto taken = sink(*piece);
    if (!taken.ok()) {
      co_return taken.error();
    }
  }
}

std::optional<std::uint64_t> Exchange::content_length() const {
  const auto length = connection_->parser_->content_length();
  if (length.has_value()) {
    return *length;
  }
  return std::nullopt;
}

asio::awaitable<BodyStream> Exchange::start_stream(int status, std::string content_type,
                                                   Headers headers) {
  auto* connection = connection_;
  connection->answer_ = Connection::Answer::kStream;
  connection->chunked_ = connection->parser_->http_1_1() && !connection->is_head();
  connection->begin_head(status, content_type);
  for (const auto& [name, value] : headers) {
    connection->add_header(name, value);
  }
  if (connection->parser_->http_1_1()) {
    connection->out_ += "Transfer-Encoding: chunked\r\n";
  }
  if (!connection->keep_alive() || !connection->parser_->http_1_1()) {
    connection->out_ += "Connection: close\r\n";
  }
  connection->out_ += "\r\n";
  co_await connection->send(connection->out_);
  connection->start_watch();
  co_return BodyStream(connection);
}

asio::awaitable<Result<RawStream>> Exchange::upgrade(std::string protocol, Headers headers) {
  auto* connection = connection_;
  const auto& request = connection->request_;
  const auto wanted = request.header("upgrade");
  const auto option = request.header("connection");
  if (!wanted.has_value() || !option.has_value() || !list_has_token(*wanted, protocol) ||
      !list_has_token(*option, "upgrade")) {
    co_return error(ErrorCode::kInvalid, "This address is for an upgrade to '" + protocol +
                                             "'; the request must ask for it.");
  }
  co_await connection->settle_watch();
  connection->begin_head(101, {});
  connection->add_header("Connection", "Upgrade");
  connection->add_header("Upgrade", protocol);
  for (const auto& [name, value] : headers) {
    connection->add_header(name, value);
  }
  connection->out_ += "\r\n";
  const bool sent = co_await connection->send(connection->out_);
  connection->answer_ = Connection::Answer::kRaw;
  if (!sent) {
    co_return error(ErrorCode::kUnavailable, "The client has gone away.");
  }
  auto stream = co_await take_over();
  co_return stream;
}

asio::awaitable<Result<RawStream>> Exchange::take_over() {
  auto* connection = connection_;
  co_await connection->settle_watch();
  connection->answer_ = Connection::Answer::kRaw;
  if (connection->told_stop_) {
    co_return error(ErrorCode::kUnavailable, "The server is stopping.");
  }
  auto state = std::make_shared<RawStream::State>();
  state->transport = connection->transport_;
  state->read_ahead = connection->input_.view();
  connection->input_.consume(state->read_ahead.size());
  co_return RawStream(std::move(state));
}

bool Exchange::closed() {
  connection_->start_watch();
  return connection_->closed();
}

asio::awaitable<void> Exchange::wait_closed() {
  connection_->start_watch();
  return connection_->wait_closed();
}

void Exchange::on_closed(std::function<void()> callback) {
  connection_->start_watch();
  connection_->on_closed(std::move(callback));
}

asio::any_io_executor Exchange::executor() const {
  return connection_->state_->io.get_executor();
}

asio::awaitable<Status> BodyStream::write(std::string_view chunk) {
  return connection_->write_chunk(chunk);
}

void BodyStream::abort() {
  connection_->gone_ = true;
  connection_->announce_closed();
}

bool BodyStream::closed() const {
  return connection_->closed();
}

asio::awaitable<void> BodyStream::wait_closed() {
  return connection_->wait_closed();
}

void BodyStream::on_closed(std::function<void()> callback) {
  connection_->on_closed(std::move(callback));
}

}  // namespace quad::net
