#include "engine/kubernetes/client/api_error.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "net/message.h"

namespace quad::kubernetes {

namespace {

constexpr std::size_t kMostBody = 300;

ErrorCode code_of(int http) {
  switch (http) {
    case 400:
    case 413:
    case 422:
      return ErrorCode::kInvalid;
    case 401:
    case 403:
      return ErrorCode::kDenied;
    case 404:
    case 410:
      return ErrorCode::kNotFound;
    case 405:
    case 406:
    case 415:
      return ErrorCode::kUnsupported;
    case 409:
      return ErrorCode::kExists;
    case 429:
      return ErrorCode::kExhausted;
    default:
      return http >= 500 ? ErrorCode::kUnavailable : ErrorCode::kInternal;
  }
}

/// The first line, without a full stop and cut to a readable length.
std::string_view short_text(std::string_view text) {
  text = trim(text);
  text = text.substr(0, std::min(text.find('\n'), kMostBody));
  while (text.ends_with('.') || text.ends_with(' ')) {
    text.remove_suffix(1);
  }
  return text;
}

}  // namespace

bool ApiFailure::has_cause(std::string_view reason_name) const {
  return std::any_of(causes.begin(), causes.end(),
                     [&](const Cause& cause) { return cause.reason == reason_name; });
}

ApiError error_of_status(int http, const json::object& status, std::string_view what) {
  ApiError result;
  auto& failure = result.failure;
  failure.http = http;
  failure.reason = get_string(status, "reason");
  std::string message(trim(get_string(status, "message")));
  if (const auto* details = get_object(status, "details"); details != nullptr) {
    failure.retry_after = Millis(1000 * get_int(*details, "retryAfterSeconds"));
    const auto* causes = get_array(*details, "causes");
    for (std::size_t i = 0; causes != nullptr && i < causes->size(); ++i) {
      const auto* cause = (*causes)[i].if_object();
      if (cause == nullptr) {
        continue;
      }
      const auto& kept = failure.causes.emplace_back(Cause{
          std::string(get_string(*cause, "reason")), std::string(get_string(*cause, "message")),
          std::string(get_string(*cause, "field"))});
      // Most messages repeat their causes; what they leave out is told.
      if (!kept.message.empty() && message.find(kept.message) == std::string::npos) {
        message += fmt::format("{}{}{}{}", message.empty() ? "" : "; ", kept.field,
                               kept.field.empty() ? "" : ": ", kept.message);
      }
    }
  }
  if (const auto* metadata = get_object(status, "metadata"); metadata != nullptr) {
    failure.continuation = get_string(*metadata, "continue");
  }
  while (message.ends_with('.')) {
    message.pop_back();
  }
  failure.message = message;
  const auto reason =
      failure.reason.empty() ? std::string(net::reason_phrase(http)) : failure.reason;
  result.error =
      error(code_of(http),
            message.empty() ? fmt::format("Cannot {}: the Kubernetes API server "
                                          "answered {} {}.",
                                          what, http, reason)
                            : fmt::format("Cannot {}: {} ({} {}).", what, message, http, reason));
  return result;
}

ApiError error_of_body(int http, std::string_view body, std::string_view what) {
  const auto parsed = parse_json_object(body);
  if (parsed.ok() && get_string(*parsed, "kind") == "Status") {
    return error_of_status(http, *parsed, what);
  }
  // The API server's filters, and proxies before it, answer in plain text.
  json::object plain;
  if (!body.empty() && body.find('<') == std::string_view::npos) {
    plain["message"] = short_text(body);
  }
  return error_of_status(http, plain, what);
}

}  // namespace quad::kubernetes
