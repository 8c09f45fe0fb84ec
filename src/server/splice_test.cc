#include "server/splice.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "base/file.h"
#include "base/text.h"

namespace quad::server {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;

/// A splice between two unix sockets, whose far ends are blocking sockets of the test.
class Splices : public ::testing::Test {
 protected:
  void join(SpliceOptions options) {
    left_ = pair();
    right_ = pair();
    asio::co_spawn(
        io_,
        [this, options = std::move(options)]() -> asio::awaitable<void> {
          auto a = co_await net::connect_unix(path_a_);
          auto b = co_await net::connect_unix(path_b_);
          Splice splice(std::move(a).value(), std::move(b).value(), io_.get_executor());
          reason_ = co_await splice.run(options);
          bytes_ = splice.bytes();
          done_ = true;
        },
        asio::detached);
    thread_ = std::thread([this] { io_.run(); });
    far_a_ = UniqueFd(::accept(left_.get(), nullptr, nullptr));
    far_b_ = UniqueFd(::accept(right_.get(), nullptr, nullptr));
    const timeval patience{20, 0};
    for (const int fd : {far_a_.get(), far_b_.get()}) {
      ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    }
  }

  void TearDown() override {
    far_a_.reset();
    far_b_.reset();
    io_.stop();
    if (thread_.joinable()) {
      thread_.join();
    }
    ::unlink(path_a_.c_str());
    ::unlink(path_b_.c_str());
  }

  UniqueFd pair() {
    std::string& path = path_a_.empty() ? path_a_ : path_b_;
    path = (fs::temp_directory_path() / ("quad-splice-" + random_hex(6))).string();
    UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(listener.get(), 1), 0);
    return listener;
  }

  bool wait_done() {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!done_ && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return done_;
  }

  /// What comes until the end, or nothing if it does not end.
  static std::optional<std::string> read_all(int fd) {
    std::string all;
    char buffer[65536];
    for (;;) {
      const ssize_t got = ::recv(fd, buffer, sizeof buffer, 0);
      if (got <= 0) {
        return got == 0 || errno == ECONNRESET ? std::optional(all) : std::nullopt;
      }
      all.append(buffer, static_cast<std::size_t>(got));
    }
  }

  asio::io_context io_{1};
  std::thread thread_;
  std::string path_a_, path_b_;
  UniqueFd left_, right_, far_a_, far_b_;
  std::atomic<bool> done_ = false;
  std::string reason_;
  std::uint64_t bytes_ = 0;
};

TEST_F(Splices, CarriesBothWaysAndEndsWhenBothHave) {
  join({});
  ASSERT_TRUE(write_all(far_a_.get(), "to b").ok());
  ::shutdown(far_a_.get(), SHUT_WR);
  EXPECT_EQ(read_all(far_b_.get()), "to b");
  EXPECT_FALSE(done_);
  ASSERT_TRUE(write_all(far_b_.get(), "and back").ok());
  far_b_.reset();
  EXPECT_EQ(read_all(far_a_.get()), "and back");
  ASSERT_TRUE(wait_done());
  EXPECT_EQ(reason_, "");
  EXPECT_EQ(bytes_, 12U);
}

TEST_F(Splices, ASideThatDoesNotReadHoldsBackTheOther) {
  join({});
  const timeval short_wait{0, 300'000};
  ::setsockopt(far_a_.get(), SOL_SOCKET, SO_SNDTIMEO, &short_wait, sizeof short_wait);
  const std::string piece(64U << 10U, 'x');
  std::size_t went = 0;
  for (ssize_t put = 0; went < (64U << 20U); went += static_cast<std::size_t>(put)) {
    put = ::send(far_a_.get(), piece.data(), piece.size(), MSG_NOSIGNAL);
    if (put <= 0) {
      break;
    }
  }
  // Two sockets' buffers and the splice's own.
  EXPECT_LT(went, 4U << 20U);
  EXPECT_FALSE(done_);
}

TEST_F(Splices, IsEndedFromHereWithAReason) {
  std::atomic<bool> end = false;
  SpliceOptions options;
  options.look = Millis(5);
  options.must_end = [&end] { return end ? std::string("it was revoked") : std::string(); };
  join(options);
  ASSERT_TRUE(write_all(far_a_.get(), "x").ok());
  char one = 0;
  ASSERT_EQ(::recv(far_b_.get(), &one, 1, 0), 1);
  EXPECT_FALSE(done_);
  end = true;
  EXPECT_TRUE(read_all(far_a_.get()).has_value());
  EXPECT_TRUE(read_all(far_b_.get()).has_value());
  ASSERT_TRUE(wait_done());
  EXPECT_EQ(reason_, "it was revoked");
}

TEST_F(Splices, ASideThatStaysAfterTheOtherEndedIsClosed) {
  SpliceOptions options;
  options.farewell = Millis(20);
  options.look = Millis(5);
  join(options);
  far_a_.reset();
  EXPECT_EQ(read_all(far_b_.get()), "");
  ASSERT_TRUE(wait_done());  // although b never ends by itself
}

TEST_F(Splices, IsEndedWhenNothingMoves) {
  SpliceOptions options;
  options.idle = Millis(20);
  options.look = Millis(5);
  join(options);
  EXPECT_EQ(read_all(far_b_.get()), "");
  ASSERT_TRUE(wait_done());
  EXPECT_NE(reason_, "");
}

}  // namespace
}  // namespace quad::server
