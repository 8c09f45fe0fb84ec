// engine/kubernetes/client/api_error.h
//
// What the API server says when it does not do what it was asked: its Status objects, as an Error
// in one sentence, and the details that decide what to do next. Pure, any thread.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "base/time.h"

namespace quad::kubernetes {

/// One of details.causes.
struct Cause {
  std::string reason;  ///< "FieldValueInvalid", "NamespaceTerminating", …
  std::string message;
  std::string field;
};

/// What a Status tells beyond its sentence. `http` is 0 when there was no answer.
struct ApiFailure {
  int http = 0;
  std::string reason;   ///< "AlreadyExists", "Conflict", "Expired", …; may be empty
  std::string message;  ///< the API server's own, with its causes; may be empty
  std::vector<Cause> causes;
  Millis retry_after{0};
  std::string continuation;  ///< of an expired list: with it the rest can be had, of a newer state

  [[nodiscard]] bool has_cause(std::string_view reason_name) const;
};

struct ApiError {
  Error error;
  ApiFailure failure;
};

/// `what` says what was tried: "create pods 'train/a'". Codes: 400, 413 and 422 kInvalid, 401 and
/// 403 kDenied, 404 and 410 kNotFound, 409 kExists (another object, or another writer), 429
/// kExhausted, 405, 406 and 415 kUnsupported, 5xx kUnavailable.
[[nodiscard]] ApiError error_of_status(int http, const json::object& status, std::string_view what);
/// The same for a body that may be anything.
[[nodiscard]] ApiError error_of_body(int http, std::string_view body, std::string_view what);

}  // namespace quad::kubernetes
