#include "cli/session.h"

#include <fmt/format.h>

#include <utility>

#include "cli/output.h"

namespace quad::cli {

ClientCarrier::ClientCarrier(std::unique_ptr<net::ClientStream> stream)
    : stream_(std::move(stream)), frames_(session::kFrames) {}

Status ClientCarrier::receive() {
  constexpr std::size_t kRead = 64U << 10U;
  constexpr int kRounds = 16;
  // Something is there: this is only for a TLS record whose rest is still under way.
  constexpr Millis kMoment{1};
  for (int round = 0; round < kRounds; ++round) {
    char* room = frames_.room(kRead);
    const auto got = stream_->read_some({room, kRead}, kMoment);
    if (!got.ok()) {
      return got.error().code == ErrorCode::kTimeout ? Status() : Status(got.error());
    }
    if (*got == 0) {
      return error(ErrorCode::kUnavailable, "The server closed the connection");
    }
    frames_.commit(*got);
    if (*got < kRead && !stream_->buffered()) {
      return {};
    }
  }
  return {};
}

Result<std::unique_ptr<ClientCarrier>> open_session(Client& client, std::int64_t job,
                                                    std::int64_t rank, std::string_view kind) {
  QUAD_ASSIGN(auto stream,
              client.upgrade(fmt::format("/v1/jobs/{}/session?kind={}&rank={}", job, kind, rank),
                             session::kUpgradeProtocol));
  return std::make_unique<ClientCarrier>(std::move(stream));
}

int tell_broken_off(const Globals& globals, std::int64_t job, const Error& failure) {
  constexpr Millis kPatience{5'000};  // it may have fallen silent, as the session did
  auto client = Client::connect(globals, false, kPatience);
  const auto view = client.ok() ? client->get(fmt::format("/v1/jobs/{}", job))
                                : Result<json::object>(client.error());
  if (!view.ok()) {
    return fail(error(view.error().code,
                      fmt::format("The session broke off, and the server cannot be asked why: {}. "
                                  "The job runs on without it.",
                                  view.error().message)));
  }
  const std::string_view status = get_string(*view, "status");
  const bool over = status == "SUCCEEDED" || status == "FAILED" || status == "CANCELLED";
  return fail(error(
      ErrorCode::kInternal,
      over || status == "RECOVERING" || status == "CANCELLING"
          ? fmt::format("The session ended with its rank: job {} is {}", job, status)
          : fmt::format("The session broke off: {}. Job {} is {}", failure.message, job, status)));
}

int tell_refused(const Error& failure) {
  return fail(failure.code == ErrorCode::kExists ? error(ErrorCode::kInternal, failure.message)
                                                 : failure);
}

}  // namespace quad::cli
