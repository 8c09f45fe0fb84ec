#include "engine/kubernetes/client/credentials.h"

#include <fmt/format.h>

#include "base/base64.h"
#include "base/file.h"
#include "base/text.h"
#include "engine/kubernetes/client/exec_plugin.h"

namespace quad::kubernetes {

namespace {

constexpr Millis kPluginTimeout{60'000};
constexpr Millis kTokenFileAge{10'000};
constexpr Millis kLeastAge{2'000};
/// Replaced this long before its end, so that it does not end on the way to the server.
constexpr Millis kExpiryMargin{5'000};
constexpr std::uint64_t kMostFile = 1U << 20U;

Result<std::string> read_secret(const std::string& path, std::string_view what) {
  auto content = read_file(path, kMostFile);
  if (!content.ok()) {
    return error(content.error().code,
                 fmt::format("The {} for the Kubernetes API server cannot be read: {}", what,
                             content.error().message),
                 path);
  }
  return content;
}

}  // namespace

Credentials::Credentials(ClusterAccess access, const Clock& clock)
    : access_(std::move(access)), clock_(clock) {}

bool Credentials::good(const Now& now) const {
  if (held_ == nullptr || stale_) {
    return false;
  }
  const auto age = now.mono - fetched_;
  const bool aged = !access_.login.token_file.empty() && age >= kTokenFileAge;
  const bool expired =
      expires_.has_value() && now.wall + kExpiryMargin >= *expires_ && age >= kLeastAge;
  return !aged && !expired;
}

Result<std::shared_ptr<const Credential>> Credentials::get(const net::Cancel& cancel) {
  while (true) {
    {
      const std::lock_guard lock(mutex_);
      const auto now = clock_.now();
      if (good(now)) {
        return held_;
      }
      if (!fetching_ && failure_.has_value() && now.mono - fetched_ < kLeastAge) {
        return *failure_;
      }
      if (!fetching_) {
        fetching_ = true;
        break;
      }
    }
    if (!cancel.sleep(Millis(20))) {
      return error(ErrorCode::kUnavailable,
                   "The wait for the Kubernetes credentials was given up, as asked.");
    }
  }
  std::optional<WallTime> expires;
  auto fetched = fetch(expires, cancel);
  const std::lock_guard lock(mutex_);
  fetching_ = false;
  if (!fetched.ok() && cancel.cancelled()) {
    return fetched.error();  // says nothing about the plugin
  }
  keep(std::move(fetched), expires);
  if (failure_.has_value()) {
    return *failure_;
  }
  return held_;
}

void Credentials::keep(Result<Credential> fetched, std::optional<WallTime> expires) {
  fetched_ = clock_.now().mono;
  failure_.reset();
  if (!fetched.ok()) {
    failure_ = fetched.error();
    return;
  }
  stale_ = false;
  expires_ = expires;
  if (held_ != nullptr && held_->authorization == fetched->authorization &&
      held_->certificate_pem == fetched->certificate_pem && held_->key_pem == fetched->key_pem) {
    return;
  }
  fetched->generation = held_ == nullptr ? 1 : held_->generation + 1;
  held_ = std::make_shared<const Credential>(std::move(fetched).value());
}

void Credentials::refused(std::uint64_t generation) {
  const std::lock_guard lock(mutex_);
  if (held_ != nullptr && held_->generation == generation &&
      clock_.now().mono - fetched_ >= kLeastAge) {
    stale_ = true;
  }
}

Result<Credential> Credentials::fetch(std::optional<WallTime>& expires,
                                      const net::Cancel& cancel) const {
  const auto& login = access_.login;
  Credential credential;
  credential.certificate_pem = login.certificate_pem;
  credential.key_pem = login.key_pem;
  if (!login.certificate_file.empty()) {
    QUAD_ASSIGN(credential.certificate_pem,
                read_secret(login.certificate_file, "client certificate"));
  }
  if (!login.key_file.empty()) {
    QUAD_ASSIGN(credential.key_pem, read_secret(login.key_file, "client key"));
  }
  auto token = login.token;
  if (!login.token_file.empty()) {
    QUAD_ASSIGN(token, read_secret(login.token_file, "token"));
  }
  if (token.empty() && login.exec.has_value()) {
    QUAD_ASSIGN(auto given, run_plugin(*login.exec, access_, kPluginTimeout, cancel));
    token = std::move(given.token);
    expires = given.expires;
    if (!given.certificate_pem.empty()) {
      credential.certificate_pem = std::move(given.certificate_pem);
      credential.key_pem = std::move(given.key_pem);
    }
  }
  if (const auto text = trim(token); !text.empty()) {
    credential.authorization = fmt::format("Bearer {}", text);
  } else if (!login.basic_user.empty()) {
    credential.authorization =
        "Basic " + base64_encode(fmt::format("{}:{}", login.basic_user, login.basic_password));
  }
  return credential;
}

}  // namespace quad::kubernetes
