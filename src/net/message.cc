#include "net/message.h"

#include <array>

#include "base/json.h"
#include "base/text.h"

namespace quad::net {

namespace {

struct CodeStatus {
  ErrorCode code;
  int status;
};

constexpr std::array kCodeStatus = {
    CodeStatus{ErrorCode::kInvalid, 400},         CodeStatus{ErrorCode::kNotFound, 404},
    CodeStatus{ErrorCode::kExists, 409},          CodeStatus{ErrorCode::kDenied, 403},
    CodeStatus{ErrorCode::kUnauthenticated, 401}, CodeStatus{ErrorCode::kUnavailable, 503},
    CodeStatus{ErrorCode::kExhausted, 429},       CodeStatus{ErrorCode::kUnsupported, 422},
    CodeStatus{ErrorCode::kTimeout, 504},         CodeStatus{ErrorCode::kIo, 500},
    CodeStatus{ErrorCode::kInternal, 500},
};

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') {
    return c - '0';
  }
  const char small = lower(c);
  return small >= 'a' && small <= 'f' ? small - 'a' + 10 : -1;
}

/// Calls visit(name, value), both still encoded, for each pair; ends early when it returns false.
template <typename Visit>
void each_pair(std::string_view query, Visit visit) {
  while (!query.empty()) {
    const auto end = query.find('&');
    const auto pair = query.substr(0, end);
    query = end == std::string_view::npos ? std::string_view{} : query.substr(end + 1);
    if (pair.empty()) {
      continue;
    }
    const auto equals = pair.find('=');
    const auto value =
        equals == std::string_view::npos ? std::string_view{} : pair.substr(equals + 1);
    if (!visit(pair.substr(0, equals), value)) {
      return;
    }
  }
}

/// What cannot be decoded stands for itself, as browsers do it.
std::string decode_query_text(std::string_view text) {
  auto decoded = percent_decode(text, true);
  return decoded.has_value() ? *std::move(decoded) : std::string(text);
}

}  // namespace

std::optional<std::string_view> Request::header(std::string_view name) const {
  for (const auto& field : headers) {
    if (equal_ignoring_case(field.name, name)) {
      return field.value;
    }
  }
  return std::nullopt;
}

std::string_view Request::parameter(std::string_view name) const {
  for (const auto& field : parameters) {
    if (field.name == name) {
      return field.value;
    }
  }
  return {};
}

std::optional<std::string> Request::query_value(std::string_view name) const {
  std::optional<std::string> found;
  each_pair(query, [&](std::string_view key, std::string_view value) {
    if (key == name || decode_query_text(key) == name) {
      found = decode_query_text(value);
      return false;
    }
    return true;
  });
  return found;
}

std::vector<std::pair<std::string, std::string>> Request::query_values() const {
  std::vector<std::pair<std::string, std::string>> values;
  each_pair(query, [&](std::string_view key, std::string_view value) {
    values.emplace_back(decode_query_text(key), decode_query_text(value));
    return true;
  });
  return values;
}

Response json_response(std::string body, int status) {
  Response response;
  response.status = status;
  response.content_type = "application/json";
  response.body = std::move(body);
  return response;
}

Response text_response(std::string body, int status) {
  Response response;
  response.status = status;
  response.content_type = "text/plain; charset=utf-8";
  response.body = std::move(body);
  return response;
}

Response error_response(const Error& failure) {
  json::object inner{{"code", to_string(failure.code)}, {"message", failure.message}};
  if (!failure.where.empty()) {
    inner["where"] = failure.where;
  }
  return json_response(to_text(json::object{{"error", std::move(inner)}}),
                       http_status(failure.code));
}

Response error_response(int status, std::string_view code, std::string_view message) {
  json::object inner{{"code", code}, {"message", message}};
  return json_response(to_text(json::object{{"error", std::move(inner)}}), status);
}

int http_status(ErrorCode code) {
  for (const auto& entry : kCodeStatus) {
    if (entry.code == code) {
      return entry.status;
    }
  }
  return 500;
}

Error error_of_response(int status, std::string_view body) {
  auto code = status >= 500 ? ErrorCode::kInternal : ErrorCode::kInvalid;
  for (const auto& entry : kCodeStatus) {
    if (entry.status == status && status != 500) {
      code = entry.code;
    }
  }
  if (status == 413) {
    code = ErrorCode::kExhausted;
  } else if (status == 502) {
    code = ErrorCode::kUnavailable;
  }
  const auto parsed = parse_json_object(body);
  const json::object* inner = parsed.ok() ? get_object(*parsed, "error") : nullptr;
  if (inner == nullptr || get_string(*inner, "message").empty()) {
    return error(code, "The server answered with HTTP status " + std::to_string(status) + " (" +
                           std::string(reason_phrase(status)) + ").");
  }
  const auto name = get_string(*inner, "code");
  for (const auto& entry : kCodeStatus) {
    if (to_string(entry.code) == name) {
      code = entry.code;
    }
  }
  return error(code, std::string(get_string(*inner, "message")),
               std::string(get_string(*inner, "where")));
}

std::string_view reason_phrase(int status) {
  switch (status) {
    case 100:
      return "Continue";
    case 101:
      return "Switching Protocols";
    case 200:
      return "OK";
    case 201:
      return "Created";
    case 202:
      return "Accepted";
    case 204:
      return "No Content";
    case 206:
      return "Partial Content";
    case 301:
      return "Moved Permanently";
    case 302:
      return "Found";
    case 303:
      return "See Other";
    case 304:
      return "Not Modified";
    case 307:
      return "Temporary Redirect";
    case 308:
      return "Permanent Redirect";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 406:
      return "Not Acceptable";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 410:
      return "Gone";
    case 411:
      return "Length Required";
    case 412:
      return "Precondition Failed";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 416:
      return "Range Not Satisfiable";
    case 417:
      return "Expectation Failed";
    case 421:
      return "Misdirected Request";
    case 422:
      return "Unprocessable Content";
    case 426:
      return "Upgrade Required";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 502:
      return "Bad Gateway";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Status";
  }
}

std::optional<std::string> percent_decode(std::string_view text, bool plus_is_space) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%') {
      if (i + 2 >= text.size()) {
        return std::nullopt;
      }
      const int high = hex_value(text[i + 1]);
      const int low = hex_value(text[i + 2]);
      if (high < 0 || low < 0) {
        return std::nullopt;
      }
      out.push_back(static_cast<char>(high * 16 + low));
      i += 2;
    } else {
      out.push_back(plus_is_space && text[i] == '+' ? ' ' : text[i]);
    }
  }
  return out;
}

std::string percent_encode(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '.' || c == '_' || c == '~';
    if (plain) {
      out.push_back(c);
    } else {
      const auto byte = static_cast<unsigned char>(c);
      out.push_back('%');
      out.push_back(kDigits[byte >> 4U]);
      out.push_back(kDigits[byte & 15U]);
    }
  }
  return out;
}

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) {
    return false;
  }
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (lower(a[i]) != lower(b[i])) {
      return false;
    }
  }
  return true;
}

bool list_has_token(std::string_view list, std::string_view token) {
  while (true) {
    const auto comma = list.find(',');
    if (equal_ignoring_case(trim(list.substr(0, comma)), token)) {
      return true;
    }
    if (comma == std::string_view::npos) {
      return false;
    }
    list.remove_prefix(comma + 1);
  }
}

}  // namespace quad::net
