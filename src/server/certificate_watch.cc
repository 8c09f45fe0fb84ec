#include "server/certificate_watch.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "base/file.h"

namespace quad::server {

namespace {

constexpr Millis kRenewalEvery{3'600'000};

}  // namespace

CertificateWatch::CertificateWatch(config::Tls files, Renew renew, Use use)
    : files_(std::move(files)),
      renew_(std::move(renew)),
      use_(std::move(use)),
      shown_(read_file(files_.certificate).value_or("")) {}

void CertificateWatch::say(const Status& status) {
  const std::string trouble = status.ok() ? std::string() : status.error().message;
  if (!trouble.empty() && trouble != said_) {
    spdlog::error("the certificate is not renewed, and the one before is shown on: {}", trouble);
  }
  said_ = trouble;
}

void CertificateWatch::look(WallTime now) {
  const Millis since = now - renewed_at_;
  if (renew_ && (since >= kRenewalEvery || since < Millis(0))) {
    renewed_at_ = now;
    if (const Status renewed = renew_(now); !renewed.ok()) {
      return say(renewed);
    }
  }
  auto there = read_file(files_.certificate);
  if (!there.ok()) {
    return say(there.error());
  }
  if (*there == shown_) {
    return say({});
  }
  const Status used = use_(files_);
  if (used.ok()) {
    shown_ = std::move(there).value();
    spdlog::info("new connections are shown the renewed certificate");
  }
  say(used);
}

}  // namespace quad::server
