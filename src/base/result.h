// base/result.h
//
// Errors as values. A function that can fail returns Result<T> (or Status when there is nothing to
// return); no exception crosses a module's border. Pure, any thread, no allocation beyond the
// error's text.

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "base/check.h"

namespace quad {

/// What kind of failure it is: decides the HTTP status and the exit code, never the wording.
enum class ErrorCode {
  kInvalid,          ///< the input is wrong; HTTP 400, exit 2
  kNotFound,         ///< HTTP 404
  kExists,           ///< clashes with what is there; HTTP 409
  kDenied,           ///< HTTP 403
  kUnauthenticated,  ///< HTTP 401
  kUnavailable,      ///< try again later; HTTP 503
  kExhausted,        ///< a bound (queue, size, disk) is reached; HTTP 429
  kUnsupported,      ///< understood, but not possible on this engine; HTTP 422
  kTimeout,          ///< HTTP 504
  kIo,               ///< the operating system refused; HTTP 500
  kInternal,         ///< a fault of Quad's own; HTTP 500
};

/// The stable lower-case name of a code, as it appears in JSON ("invalid", "not_found", …).
std::string_view to_string(ErrorCode code);

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;  ///< one sentence that says what to do
  std::string where;    ///< key path, file or address, if there is one
};

/// An Error of `code`; the usual way to return a failure.
[[nodiscard]] inline Error error(ErrorCode code, std::string message, std::string where = {}) {
  return Error{code, std::move(message), std::move(where)};
}

/// `message` followed by the text of the current errno, as a kIo error (kExhausted for a full disk
/// or quota).
[[nodiscard]] Error errno_error(std::string message, int error_number);

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}          // NOLINT
  Result(Error failure) : state_(std::in_place_index<1>, std::move(failure)) {}  // NOLINT

  [[nodiscard]] bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  [[nodiscard]] T& value() & {
    QUAD_CHECK(ok(), error().message);
    return std::get<0>(state_);
  }
  [[nodiscard]] const T& value() const& {
    QUAD_CHECK(ok(), error().message);
    return std::get<0>(state_);
  }
  [[nodiscard]] T&& value() && {
    QUAD_CHECK(ok(), error().message);
    return std::get<0>(std::move(state_));
  }
  [[nodiscard]] T value_or(T other) && { return ok() ? std::get<0>(std::move(state_)) : other; }
  [[nodiscard]] const Error& error() const { return std::get<1>(state_); }

  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<T, Error> state_;
};

/// Success, or an Error.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error failure) : failure_(std::move(failure)) {}  // NOLINT

  [[nodiscard]] bool ok() const { return !failure_.has_value(); }
  explicit operator bool() const { return ok(); }
  [[nodiscard]] const Error& error() const { return *failure_; }

 private:
  std::optional<Error> failure_;
};

}  // namespace quad

/// Returns from the calling function with the error of a Status or Result that failed.
#define QUAD_TRY(expression)                                                 \
  do {                                                                       \
    if (const auto& quad_try_status = (expression); !quad_try_status.ok()) { \
      return quad_try_status.error();                                        \
    }                                                                        \
  } while (false)

#define QUAD_CONCAT_INNER(a, b) a##b
#define QUAD_CONCAT(a, b) QUAD_CONCAT_INNER(a, b)
#define QUAD_ASSIGN_INNER(temporary, target, expression) \
  auto temporary = (expression);                         \
  if (!temporary.ok()) {                                 \
    return temporary.error();                            \
  }                                                      \
  target = std::move(temporary).value()

/// `QUAD_ASSIGN(auto x, f())`: x is the value of f(), or the calling function returns its error.
#define QUAD_ASSIGN(target, expression) \
  QUAD_ASSIGN_INNER(QUAD_CONCAT(quad_assign_, __LINE__), target, expression)
