#include "runner/http_get.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>

#include "base/text.h"

namespace quad::runner {
namespace {

constexpr int kTimeoutMillis = 60'000;
constexpr std::size_t kReceive = 256U << 10U;
constexpr std::size_t kLongestHeader = 64U << 10U;

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

// The peer or the way to it is the trouble: trying again may help.
Error lost(std::string_view what, int error_number) {
  return error(ErrorCode::kUnavailable, errno_error(std::string(what), error_number).message);
}

}  // namespace

Result<GetRequest> request_for(std::string_view url) {
  GetRequest request;
  QUAD_ASSIGN(const Endpoint endpoint, parse_endpoint(url));
  request.server = fmt::format("{}://{}", endpoint.tls ? "https" : "http", endpoint.authority());
  const std::size_t begin = url.find("://") + 3;
  const std::size_t path = url.find_first_of("/?#", begin);
  const std::string_view rest = path == std::string_view::npos ? "/" : url.substr(path);
  request.target = rest.substr(0, rest.find('#'));
  if (!request.target.starts_with('/')) {
    request.target.insert(0, "/");
  }
  for (char& c : request.target) {
    if (static_cast<unsigned char>(c) <= ' ') {
      return error(ErrorCode::kInvalid, fmt::format("The URL {} holds a space", url));
    }
  }
  return request;
}

Status HttpGet::wait(short events) {
  pollfd polled{fd_.get(), events, 0};
  for (;;) {
    const int ready = ::poll(&polled, 1, kTimeoutMillis);
    if (ready > 0) {
      return {};
    }
    if (ready == 0) {
      return error(ErrorCode::kUnavailable, "nothing came for 60 s");
    }
    if (errno != EINTR) {
      return lost("Cannot wait", errno);
    }
  }
}

Status HttpGet::connect(const Endpoint& endpoint, const std::string& ca) {
  std::vector<Address> addresses = numeric_addresses(endpoint);
  if (addresses.empty()) {
    QUAD_ASSIGN(const std::vector<std::string> hosts, resolve(endpoint.host));
    for (const std::string& host : hosts) {
      for (const Address& address : numeric_address(host, endpoint.port)) {
        addresses.push_back(address);
      }
    }
  }
  Status last = error(ErrorCode::kUnavailable, "there is no address");
  for (const Address& address : addresses) {
    auto socket = begin_connect(address);
    if (!socket.ok()) {
      last = error(ErrorCode::kUnavailable, socket.error().message);
      continue;
    }
    fd_ = std::move(socket).value();
    if (last = wait(POLLOUT); !last.ok()) {
      continue;
    }
    int failure = 0;
    socklen_t size = sizeof failure;
    ::getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &failure, &size);
    if (failure != 0) {
      last = lost("Cannot connect", failure);
      continue;
    }
    last = Status();
    break;
  }
  QUAD_TRY(last);
  if (!endpoint.tls) {
    return {};
  }
  QUAD_TRY(tls_.begin(fd_.get(), ca, endpoint.host));
  for (;;) {
    switch (tls_.handshake()) {
      case Io::kDone:
        return {};
      case Io::kWantRead:
        QUAD_TRY(wait(POLLIN));
        break;
      case Io::kWantWrite:
        QUAD_TRY(wait(POLLOUT));
        break;
      default:
        return error(ErrorCode::kUnavailable, tls_.trouble());
    }
  }
}

Status HttpGet::send_all(std::string_view bytes) {
  while (!bytes.empty()) {
    if (tls_.active()) {
      std::size_t put = 0;
      const Io io = tls_.write(bytes.data(), bytes.size(), put);
      if (io == Io::kWantRead || io == Io::kWantWrite) {
        QUAD_TRY(wait(io == Io::kWantRead ? POLLIN : POLLOUT));
      } else if (io != Io::kDone) {
        return error(ErrorCode::kUnavailable, tls_.trouble());
      }
      bytes.remove_prefix(put);
      continue;
    }
    const ssize_t put = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (put > 0) {
      bytes.remove_prefix(static_cast<std::size_t>(put));
    } else if (errno == EAGAIN) {
      QUAD_TRY(wait(POLLOUT));
    } else if (errno != EINTR) {
      return lost("Cannot send", errno);
    }
  }
  return {};
}

Result<bool> HttpGet::fill() {
  if (used_ > 0) {
    buffer_.erase(0, used_);
    used_ = 0;
  }
  const std::size_t before = buffer_.size();
  buffer_.resize(before + kReceive);
  std::size_t got = 0;
  Status failure;
  bool end = false;
  for (;;) {
    if (tls_.active()) {
      const Io io = tls_.read(buffer_.data() + before, kReceive, got);
      if (io == Io::kDone) {
        break;
      }
      if (io == Io::kClosed) {
        end = true;
        break;
      }
      if (io == Io::kFailed) {
        failure = error(ErrorCode::kUnavailable, tls_.trouble());
        break;
      }
      failure = wait(io == Io::kWantRead ? POLLIN : POLLOUT);
    } else {
      const ssize_t count = ::recv(fd_.get(), buffer_.data() + before, kReceive, 0);
      if (count >= 0) {
        got = static_cast<std::size_t>(count);
        end = count == 0;
        break;
      }
      if (errno == EAGAIN) {
        failure = wait(POLLIN);
      } else if (errno != EINTR) {
        failure = lost("Cannot receive", errno);
      }
    }
    if (!failure.ok()) {
      break;
    }
  }
  buffer_.resize(before + got);
  QUAD_TRY(failure);
  return !end;
}

Result<std::string> HttpGet::read_line() {
  for (;;) {
    const std::size_t end = buffer_.find("\r\n", used_);
    if (end != std::string::npos) {
      std::string line(buffer_, used_, end - used_);
      used_ = end + 2;
      return line;
    }
    if (buffer_.size() - used_ > kLongestHeader) {
      return error(ErrorCode::kInvalid, "the answer is no HTTP");
    }
    QUAD_ASSIGN(const bool more, fill());
    if (!more) {
      return error(ErrorCode::kUnavailable, "the connection was closed in mid-answer");
    }
  }
}

Status HttpGet::open(const GetRequest& request) {
  GetRequest current = request;
  for (int redirects = 0;; ++redirects) {
    QUAD_ASSIGN(const Endpoint endpoint, parse_endpoint(current.server));
    tls_.end();
    buffer_.clear();
    used_ = 0;
    chunked_ = bounded_ = finished_ = false;
    left_ = 0;
    QUAD_TRY(connect(endpoint, current.ca));
    QUAD_TRY(send_all(fmt::format(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: quad-runner\r\nAccept: */*\r\n{}Connection: "
        "close\r\n\r\n",
        current.target, endpoint.authority(),
        current.token.empty() ? "" : fmt::format("Authorization: Bearer {}\r\n", current.token))));
    int status = 0;
    std::string location;
    do {
      QUAD_ASSIGN(const std::string line, read_line());
      if (!line.starts_with("HTTP/1.") || line.size() < 12) {
        return error(ErrorCode::kInvalid, "the answer is no HTTP");
      }
      status = std::atoi(line.c_str() + 9);
      for (;;) {
        QUAD_ASSIGN(const std::string header, read_line());
        if (header.empty()) {
          break;
        }
        const std::size_t colon = header.find(':');
        const std::string name = lower(header.substr(0, colon));
        const std::string_view value =
            colon == std::string::npos ? "" : trim(std::string_view(header).substr(colon + 1));
        if (name == "content-length") {
          bounded_ =
              std::from_chars(value.data(), value.data() + value.size(), left_).ec == std::errc();
        } else if (name == "transfer-encoding") {
          chunked_ = lower(value).find("chunked") != std::string::npos;
        } else if (name == "location") {
          location = value;
        }
      }
    } while (status >= 100 && status < 200);
    if (status >= 200 && status < 300) {
      left_ = chunked_ ? 0 : left_;
      return {};
    }
    if (status >= 300 && status < 400 && !location.empty() && redirects < request.max_redirects) {
      std::string next = location;
      if (location.starts_with("//")) {
        next = (endpoint.tls ? "https:" : "http:") + location;
      } else if (location.starts_with('/')) {
        next = current.server + location;
      }
      QUAD_ASSIGN(GetRequest following, request_for(next));
      if (endpoint.tls && following.server.starts_with("http://")) {
        return error(ErrorCode::kDenied, fmt::format("it redirects from https to {}", next));
      }
      following.ca = current.ca;
      following.token = following.server == current.server ? current.token : "";
      current = std::move(following);
      continue;
    }
    if (status >= 300 && status < 400 && redirects > 0) {
      return error(ErrorCode::kInvalid, fmt::format("it redirects more than {} times", redirects));
    }
    std::string body;
    while (body.size() < 300) {
      auto piece = read();
      if (!piece.ok() || piece.value().empty()) {
        break;
      }
      body.append(piece.value().substr(0, 300));
    }
    ErrorCode code = ErrorCode::kIo;
    if (status == 404) {
      code = ErrorCode::kNotFound;
    } else if (status >= 500 || status == 429) {
      code = ErrorCode::kUnavailable;
    } else if (status == 401 || status == 403) {
      code = ErrorCode::kDenied;
    }
    // A page for people says no more than its number does.
    const std::string_view told = trim(body);
    return error(code, told.empty() || told.starts_with('<')
                           ? fmt::format("the answer was {}", status)
                           : fmt::format("the answer was {}: {}", status, told));
  }
}

Result<std::string_view> HttpGet::read() {
  for (;;) {
    if (finished_ || (bounded_ && !chunked_ && left_ == 0)) {
      return std::string_view();
    }
    if (chunked_ && left_ == 0) {
      QUAD_ASSIGN(std::string line, read_line());
      if (line.empty()) {
        QUAD_ASSIGN(line, read_line());  // the line end after a chunk
      }
      const auto parsed = std::from_chars(line.data(), line.data() + line.size(), left_, 16);
      if (parsed.ec != std::errc()) {
        return error(ErrorCode::kInvalid, "the answer's chunks make no sense");
      }
      if (left_ == 0) {
        finished_ = true;
        return std::string_view();
      }
    }
    if (used_ == buffer_.size()) {
      QUAD_ASSIGN(const bool more, fill());
      if (!more) {
        if (bounded_ || chunked_) {
          return error(ErrorCode::kUnavailable,
                       "the connection was closed before everything was there");
        }
        finished_ = true;
        return std::string_view();
      }
      continue;
    }
    std::size_t count = buffer_.size() - used_;
    if (bounded_ || chunked_) {
      count = static_cast<std::size_t>(std::min<std::uint64_t>(count, left_));
      left_ -= count;
    }
    const std::string_view piece(buffer_.data() + used_, count);
    used_ += count;
    return piece;
  }
}

}  // namespace quad::runner
