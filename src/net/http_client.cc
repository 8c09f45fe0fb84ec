#include "net/http_client.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>
#include <charconv>
#include <cstring>

#include "net/client_wire.h"
#include "net/request_parser.h"

namespace quad::net {

namespace {

constexpr std::uint32_t kHeaderLimit = 64U << 10U;
constexpr std::size_t kReadBuffer = 128U << 10U;
constexpr std::size_t kUploadBuffer = 256U << 10U;

/// Beast's parser with the response's head and body pieces beneath it.
class ResponseParser final : public boost::beast::http::basic_parser<false> {
 public:
  explicit ResponseParser(ClientResponse& response, bool head_only) : response_(response) {
    header_limit(kHeaderLimit);
    body_limit(boost::none);
    eager(false);
    skip(head_only);
  }

  std::string_view piece;

 private:
  using Text = boost::beast::string_view;
  using Failure = boost::beast::error_code;

  void on_request_impl(boost::beast::http::verb, Text, Text, int, Failure&) override {}
  void on_response_impl(int status, Text, int, Failure&) override { response_.status = status; }
  void on_field_impl(boost::beast::http::field, Text name, Text value, Failure&) override {
    if (in_head_) {
      response_.headers.emplace_back(std::string(name.data(), name.size()),
                                     std::string(value.data(), value.size()));
    }
  }
  void on_header_impl(Failure&) override { in_head_ = false; }
  void on_body_init_impl(const boost::optional<std::uint64_t>&, Failure&) override {}
  std::size_t on_body_impl(Text body, Failure&) override {
    piece = {body.data(), body.size()};
    return body.size();
  }
  void on_chunk_header_impl(std::uint64_t, Text, Failure&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, Text body, Failure&) override {
    piece = {body.data(), body.size()};
    return body.size();
  }
  void on_finish_impl(Failure&) override {}

  ClientResponse& response_;
  bool in_head_ = true;
};

/// The body that a request sends: text, or an open file.
struct Outgoing {
  std::string_view text;
  int file = -1;
  off_t start = 0;  ///< of the file
  std::optional<std::uint64_t>
      length;  ///< of the file; nothing for a pipe, which is sent in chunks
};

bool may_repeat(std::string_view method, const Outgoing& body) {
  const bool idempotent =
      method == "GET" || method == "HEAD" || method == "PUT" || method == "DELETE";
  return idempotent && (body.file < 0 || body.length.has_value());
}

bool has_header(const Headers& headers, std::string_view name) {
  return std::any_of(headers.begin(), headers.end(),
                     [&](const auto& entry) { return equal_ignoring_case(entry.first, name); });
}

void append_headers(std::string& out, const Headers& headers) {
  for (const auto& [name, value] : headers) {
    out += name;
    out += ": ";
    for (const char c : value) {
      out += c == '\r' || c == '\n' ? ' ' : c;
    }
    out += "\r\n";
  }
}

class RawClientStream final : public ClientStream {
 public:
  RawClientStream(std::unique_ptr<Wire> wire, std::string read_ahead)
      : wire_(std::move(wire)), read_ahead_(std::move(read_ahead)) {}

  Result<std::size_t> read_some(std::span<char> into, Millis timeout) override {
    if (read_ahead_.empty()) {
      return wire_->read_some(into, timeout);
    }
    const auto count = std::min(into.size(), read_ahead_.size());
    std::memcpy(into.data(), read_ahead_.data(), count);
    read_ahead_.erase(0, count);
    return count;
  }

  Status write(std::string_view bytes) override {
    const auto sent = wire_->write(bytes, Millis(0), false);
    if (!sent.ok()) {
      return sent.error();
    }
    return {};
  }

  Result<std::size_t> write_some(std::string_view bytes) override {
    return wire_->write_some(bytes);
  }

  [[nodiscard]] int fd() const override { return wire_->fd(); }
  [[nodiscard]] bool buffered() const override { return !read_ahead_.empty() || wire_->buffered(); }

 private:
  std::unique_ptr<Wire> wire_;
  std::string read_ahead_;
};

}  // namespace

struct HttpClient::State {
  ClientOptions options;
  ServerAddress address;
  std::unique_ptr<Wire> wire;
  InputBuffer input;

  struct Call {
    std::string_view method;
    std::string_view target;
    const Headers* headers = nullptr;
    Outgoing body;
    const ChunkSink* sink = nullptr;
    const HeadSink* on_head = nullptr;
    Millis read_timeout{0};
    bool upgrade = false;
  };

  Result<ClientResponse> run(const Call& call);
  Result<ClientResponse> try_once(const Call& call, bool& answered);
  [[nodiscard]] std::string head_of(const Call& call) const;
  Result<bool> send_file(const Outgoing& body);
  Result<ClientResponse> read_response(const Call& call, bool& answered);
  Status read_more(Millis timeout, bool& ended);
  void drop() {
    wire.reset();
    input = {};
  }
};

Result<ClientResponse> HttpClient::State::run(const Call& call) {
  if (!call.target.starts_with('/') ||
      call.target.find_first_of(" \t\r\n") != std::string_view::npos) {
    return error(ErrorCode::kInvalid, "The target '" + std::string(call.target) +
                                          "' must begin with '/' and have no spaces.");
  }
  if (wire != nullptr && (!input.empty() || wire->answer_waiting())) {
    drop();  // the server has closed the connection, or says what nobody asked for
  }
  const bool reused = wire != nullptr;
  bool answered = false;
  auto response = try_once(call, answered);
  if (!response.ok()) {
    drop();
    // An idle connection that the server closes just as we use it again is nobody's fault.
    if (reused && !answered && response.error().code == ErrorCode::kUnavailable &&
        may_repeat(call.method, call.body)) {
      response = try_once(call, answered);
      if (!response.ok()) {
        drop();
      }
    }
  }
  return response;
}

Result<ClientResponse> HttpClient::State::try_once(const Call& call, bool& answered) {
  if (wire == nullptr) {
    QUAD_ASSIGN(wire, connect_wire(address, options));
  }
  auto head = head_of(call);
  const auto timeout = options.read_timeout;
  bool complete = true;
  // A failing write may mean that the server has refused and closed: its answer says more than the
  // failure.
  std::optional<Error> write_error;
  const auto send = [&](Result<bool> sent) {
    if (!sent.ok()) {
      write_error = sent.error();
    }
    complete = sent.ok() && *sent;
  };
  if (call.body.file >= 0) {
    send(wire->write(head, timeout, false));
    if (complete) {
      send(send_file(call.body));
      if (write_error.has_value() && write_error->code == ErrorCode::kIo) {
        return *write_error;
      }
    }
  } else if (call.body.text.size() <= kUploadBuffer) {
    head += call.body.text;
    send(wire->write(head, timeout, false));
  } else {
    send(wire->write(head, timeout, false));
    if (complete) {
      send(wire->write(call.body.text, timeout, true));
    }
  }
  auto response = read_response(call, answered);
  if (!response.ok() && !answered && write_error.has_value()) {
    return *write_error;
  }
  if (!complete) {
    drop();
  }
  return response;
}

std::string HttpClient::State::head_of(const Call& call) const {
  std::string head;
  head.reserve(512);
  head += call.method;
  head += ' ';
  head += address.prefix;
  head += call.target;
  head += " HTTP/1.1\r\nHost: ";
  head += address.host_header;
  head += "\r\n";
  append_headers(head, options.headers);
  append_headers(head, *call.headers);
  const bool has_body = call.body.file >= 0 || !call.body.text.empty();
  if (has_body && !has_header(*call.headers, "content-type")) {
    head += call.body.file >= 0 ? "Content-Type: application/octet-stream\r\n"
                                : "Content-Type: application/json\r\n";
  }
  if (call.body.file >= 0 && !call.body.length.has_value()) {
    head += "Transfer-Encoding: chunked\r\n";
  } else if (has_body || call.method == "POST" || call.method == "PUT") {
    const auto length = call.body.file >= 0 ? *call.body.length : call.body.text.size();
    head += "Content-Length: " + std::to_string(length) + "\r\n";
  }
  head += "\r\n";
  return head;
}

/// False if the server answered before the end.
Result<bool> HttpClient::State::send_file(const Outgoing& body) {
  if (body.length.has_value() && ::lseek(body.file, body.start, SEEK_SET) < 0) {
    return errno_error("Cannot read the file to upload", errno);
  }
  std::string buffer(kUploadBuffer, '\0');
  std::uint64_t left = body.length.value_or(UINT64_MAX);
  while (left > 0) {
    const auto want = static_cast<std::size_t>(std::min<std::uint64_t>(left, buffer.size()));
    const auto got = ::read(body.file, buffer.data(), want);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return errno_error("Cannot read the file to upload", errno);
    }
    const std::string_view piece(buffer.data(), static_cast<std::size_t>(got));
    if (!body.length.has_value()) {
      std::array<char, 20> size{};
      const auto* end = std::to_chars(size.data(), size.data() + size.size(), piece.size(), 16).ptr;
      std::string chunk(size.data(), static_cast<std::size_t>(end - size.data()));
      chunk += "\r\n";
      chunk += piece;
      chunk += "\r\n";
      QUAD_ASSIGN(const bool went, wire->write(chunk, options.read_timeout, true));
      if (!went || piece.empty()) {
        return went;
      }
      continue;
    }
    if (got == 0) {
      return error(ErrorCode::kIo, "The file to upload became shorter while it was read.");
    }
    QUAD_ASSIGN(const bool went, wire->write(piece, options.read_timeout, true));
    if (!went) {
      return false;
    }
    left -= piece.size();
  }
  return true;
}

Status HttpClient::State::read_more(Millis timeout, bool& ended) {
  const auto space = input.prepare(kReadBuffer);
  if (space.empty()) {
    return error(ErrorCode::kExhausted, "The " + options.peer + " sent a head without an end.");
  }
  QUAD_ASSIGN(const auto got, wire->read_some(space, timeout));
  input.commit(got);
  ended = got == 0;
  return {};
}

Result<ClientResponse> HttpClient::State::read_response(const Call& call, bool& answered) {
  namespace http = boost::beast::http;
  ClientResponse response;
  std::optional<ResponseParser> parser;
  parser.emplace(response, call.method == "HEAD");
  bool head_shown = false;
  while (true) {
    parser->piece = {};
    boost::beast::error_code failure;
    bool progress = false;
    if (const auto view = input.view(); !view.empty()) {
      answered = true;
      input.consume(parser->put(boost::asio::const_buffer(view.data(), view.size()), failure));
      progress = failure != http::error::need_more;
      if (!head_shown && parser->is_header_done() && response.ok()) {
        head_shown = true;
        if (call.on_head != nullptr && *call.on_head) {
          (*call.on_head)(response);
        }
      }
      if (failure && progress) {
        return error(ErrorCode::kUnavailable, "What answers at " + options.url +
                                                  " does not speak HTTP/1.1 (" + failure.message() +
                                                  ").");
      }
    }
    if (!parser->piece.empty()) {
      if (call.sink != nullptr && response.ok()) {
        if (!(*call.sink)(parser->piece)) {
          drop();
          return response;
        }
      } else {
        if (response.body.size() + parser->piece.size() > options.body_limit) {
          return error(ErrorCode::kExhausted, "The answer is larger than the " +
                                                  std::to_string(options.body_limit) +
                                                  " bytes that this client takes.");
        }
        response.body += parser->piece;
      }
    }
    if (parser->is_done()) {
      if (response.status / 100 == 1 && response.status != 101) {
        response = {};
        parser.emplace(response, call.method == "HEAD");
        continue;
      }
      break;
    }
    if (progress) {
      continue;
    }
    bool ended = false;
    const bool awaits_head = call.on_head != nullptr && *call.on_head && !head_shown;
    QUAD_TRY(read_more(awaits_head ? options.read_timeout : call.read_timeout, ended));
    if (!ended) {
      continue;
    }
    if (!answered) {
      return error(ErrorCode::kUnavailable, "The " + options.peer + " at " + options.url +
                                                " closed the connection without an answer.");
    }
    parser->put_eof(failure);
    if (failure) {
      return error(ErrorCode::kUnavailable,
                   "The " + options.peer + " closed the connection in the middle of its answer.");
    }
    break;
  }
  if (!parser->keep_alive() && !call.upgrade) {
    drop();
  }
  input.shrink();
  return response;
}

std::optional<std::string_view> ClientResponse::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (equal_ignoring_case(key, name)) {
      return value;
    }
  }
  return std::nullopt;
}

HttpClient::HttpClient(std::unique_ptr<State> state) : state_(std::move(state)) {}
HttpClient::HttpClient(HttpClient&&) noexcept = default;
HttpClient& HttpClient::operator=(HttpClient&&) noexcept = default;
HttpClient::~HttpClient() = default;

Result<HttpClient> HttpClient::create(ClientOptions options) {
  auto state = std::make_unique<State>();
  QUAD_ASSIGN(state->address, parse_address(options.url));
  state->options = std::move(options);
  return HttpClient(std::move(state));
}

Result<ClientResponse> HttpClient::request(std::string_view method, std::string_view target,
                                           std::string_view body, const Headers& headers) {
  State::Call call{method, target, &headers, {body, -1, 0, {}}};
  call.read_timeout = state_->options.read_timeout;
  return state_->run(call);
}

Result<ClientResponse> HttpClient::stream(std::string_view method, std::string_view target,
                                          const ChunkSink& sink, Millis read_timeout,
                                          std::string_view body, const Headers& headers,
                                          const HeadSink& on_head) {
  State::Call call{method, target, &headers, {body, -1, 0, {}}};
  call.sink = &sink;
  call.on_head = &on_head;
  call.read_timeout = read_timeout;
  return state_->run(call);
}

Result<ClientResponse> HttpClient::upload(std::string_view method, std::string_view target,
                                          int file, const Headers& headers,
                                          std::optional<Millis> read_timeout) {
  struct stat info {};
  if (::fstat(file, &info) != 0) {
    return errno_error("Cannot read the file to upload", errno);
  }
  Outgoing body;
  body.file = file;
  if (S_ISREG(info.st_mode)) {
    body.start = ::lseek(file, 0, SEEK_CUR);
    if (body.start < 0) {
      return errno_error("Cannot read the file to upload", errno);
    }
    body.length = static_cast<std::uint64_t>(std::max<off_t>(0, info.st_size - body.start));
  }
  State::Call call{method, target, &headers, body};
  call.read_timeout = read_timeout.value_or(state_->options.read_timeout);
  return state_->run(call);
}

Result<UpgradeResult> HttpClient::upgrade(std::string_view target, std::string_view protocol,
                                          const Headers& headers) {
  Headers all = headers;
  all.emplace_back("Connection", "Upgrade");
  all.emplace_back("Upgrade", std::string(protocol));
  State::Call call{"GET", target, &all, {}};
  call.read_timeout = state_->options.read_timeout;
  call.upgrade = true;
  QUAD_ASSIGN(auto response, state_->run(call));
  UpgradeResult result;
  if (response.status == 101) {
    std::string read_ahead(state_->input.view());
    result.stream =
        std::make_unique<RawClientStream>(std::move(state_->wire), std::move(read_ahead));
  }
  state_->drop();
  result.response = std::move(response);
  return result;
}

const std::string& HttpClient::url() const {
  return state_->options.url;
}

}  // namespace quad::net
