// log_follower SOCKET JOB BLOCK
//
// Follows a job's output through the server's unix socket, as the command line does, to its end.
// Each BLOCK bytes of the output begin with "block NUMBER at NANOSECONDS"; prints how many blocks
// came in order, and how long after their time, as JSON. In C++ because it has to keep up with a
// rank that prints as fast as it can.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "net/http_client.h"

namespace {

double now_millis() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::milli>(now).count();
}

/// Cuts the stream into blocks. Only their heads are looked at.
class Blocks {
 public:
  explicit Blocks(std::size_t size) : size_(size) {}

  /// False if a block is not the one that is due.
  bool take(std::string_view piece) {
    while (!piece.empty()) {
      const std::size_t at = total_ % size_;
      const std::size_t count = std::min(piece.size(), size_ - at);
      if (at < kHead) {
        head_.append(piece.substr(0, std::min(count, kHead - at)));
      }
      total_ += count;
      piece.remove_prefix(count);
      if (total_ % size_ == 0 && !finish_block()) {
        return false;
      }
    }
    return true;
  }

  [[nodiscard]] bool whole() const { return total_ % size_ == 0; }
  [[nodiscard]] std::vector<double> lags() const { return lags_; }

 private:
  static constexpr std::size_t kHead = 40;

  bool finish_block() {
    unsigned long long number = 0;
    unsigned long long nanoseconds = 0;
    const bool read = std::sscanf(head_.c_str(), "block %llu at %llu", &number, &nanoseconds) == 2;
    if (!read || number != lags_.size()) {
      return false;
    }
    lags_.push_back(now_millis() - static_cast<double>(nanoseconds) / 1e6);
    head_.clear();
    return true;
  }

  std::size_t size_;
  std::size_t total_ = 0;
  std::string head_;
  std::vector<double> lags_;
};

int fail(std::string_view what) {
  fmt::print(stderr, "log_follower: {}\n", what);
  return 1;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) {
    return fail("usage: log_follower SOCKET JOB BLOCK");
  }
  quad::net::ClientOptions options;
  options.url = fmt::format("unix:{}", arguments[1]);
  auto client = quad::net::HttpClient::create(options);
  if (!client.ok()) {
    return fail(client.error().message);
  }
  Blocks blocks(std::strtoull(arguments[3], nullptr, 10));
  bool in_order = true;
  const auto answer = client->stream(
      "GET", fmt::format("/v1/jobs/{}/logs?follow=1", arguments[2]),
      [&](std::string_view piece) { return in_order = blocks.take(piece); }, quad::Millis(60'000));
  if (!in_order || !answer.ok() || !answer->ok() || !blocks.whole()) {
    return fail(!in_order      ? "a block is missing or out of order"
                : !answer.ok() ? answer.error().message
                               : "the output ended in the middle of a block");
  }
  std::vector<double> lags = blocks.lags();
  std::sort(lags.begin(), lags.end());
  if (lags.empty()) {
    return fail("there was no output");
  }
  fmt::print(R"({{"blocks": {}, "p50_ms": {:.1f}, "p99_ms": {:.1f}}})"
             "\n",
             lags.size(), lags[lags.size() / 2], lags[lags.size() * 99 / 100]);
  return 0;
}
