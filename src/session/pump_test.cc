#include "session/pump.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace quad::session {
namespace {

constexpr std::uint32_t kTestWindow = 64U << 10U;

/// A carrier over a socket.
class SocketCarrier final : public Carrier {
 public:
  explicit SocketCarrier(int fd) : fd_(fd), frames_(kFrames) {}
  [[nodiscard]] int fd() const override { return fd_.get(); }
  Status receive() override {
    constexpr std::size_t kRead = 16U << 10U;
    char* room = frames_.room(kRead);
    const ssize_t got = ::recv(fd_.get(), room, kRead, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) {
      return {};
    }
    if (got <= 0) {
      return error(ErrorCode::kUnavailable, "closed");
    }
    frames_.commit(static_cast<std::size_t>(got));
    return {};
  }
  runner::FrameReader& frames() override { return frames_; }
  Result<std::size_t> send(std::string_view bytes) override {
    const ssize_t put = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put < 0 && errno == EAGAIN) {
      return std::size_t{0};
    }
    if (put < 0) {
      return error(ErrorCode::kUnavailable, "closed");
    }
    return static_cast<std::size_t>(put);
  }
  [[nodiscard]] bool buffered() const override { return false; }

 private:
  UniqueFd fd_;
  runner::FrameReader frames_;
};

struct Pair {
  UniqueFd first;
  UniqueFd second;
};

Pair pipe_pair() {  // the read end first
  int ends[2];
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Pair socket_pair() {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

/// Two pumps with a connection between them, and a step of each in turn.
class Pumps : public ::testing::Test {
 protected:
  Pumps() {
    ::signal(SIGPIPE, SIG_IGN);
    Pair wire = socket_pair();
    carrier_a_ = std::make_unique<SocketCarrier>(wire.first.release());
    carrier_b_ = std::make_unique<SocketCarrier>(wire.second.release());
    a_ = std::make_unique<Pump>(*carrier_a_, kTestWindow);
    b_ = std::make_unique<Pump>(*carrier_b_, kTestWindow);
  }

  bool until(const std::function<bool()>& happened) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!happened()) {
      std::vector<pollfd> none;
      if (!a_->step(none, Millis(1)).ok() || !b_->step(none, Millis(1)).ok() ||
          std::chrono::steady_clock::now() > end) {
        return happened();
      }
    }
    return true;
  }

  /// What can be read there now; nothing at the end.
  static std::optional<std::string> read_now(int fd) {
    char buffer[65536];
    const ssize_t got = ::read(fd, buffer, sizeof buffer);
    if (got == 0) {
      return std::nullopt;
    }
    return std::string(buffer, got > 0 ? static_cast<std::size_t>(got) : 0);
  }

  std::unique_ptr<SocketCarrier> carrier_a_;
  std::unique_ptr<SocketCarrier> carrier_b_;
  std::unique_ptr<Pump> a_;
  std::unique_ptr<Pump> b_;
};

TEST_F(Pumps, APipeBecomesAPipeElsewhereWithItsEnd) {
  Pair in = pipe_pair();
  Pair out = pipe_pair();
  a_->attach(1, {std::move(in.first), UniqueFd()});
  b_->attach(1, {UniqueFd(), std::move(out.second)});
  std::string sent;
  std::string got;
  bool ended = false;
  constexpr std::size_t kAll = 3U << 20U;
  ASSERT_TRUE(until([&] {
    while (sent.size() < kAll) {
      const std::string piece(4096, static_cast<char>('a' + sent.size() / 4096 % 26));
      const ssize_t put = ::write(in.second.get(), piece.data(), piece.size());
      if (put <= 0) {
        break;
      }
      sent.append(piece, 0, static_cast<std::size_t>(put));
    }
    if (sent.size() >= kAll) {
      in.second.reset();
    }
    const auto more = read_now(out.first.get());
    ended = !more;
    got += more.value_or("");
    return ended;
  }));
  EXPECT_EQ(got, sent);
  EXPECT_FALSE(a_->has(1));
  EXPECT_FALSE(b_->has(1));
}

TEST_F(Pumps, AReaderThatDoesNotReadHoldsBackItsStreamAndNoOther) {
  Pair stuck_in = pipe_pair();
  Pair stuck_out = pipe_pair();
  Pair in = pipe_pair();
  Pair out = pipe_pair();
  a_->attach(1, {std::move(stuck_in.first), UniqueFd()});
  b_->attach(1, {UniqueFd(), std::move(stuck_out.second)});
  a_->attach(2, {std::move(in.first), UniqueFd()});
  b_->attach(2, {UniqueFd(), std::move(out.second)});
  // Until nothing more goes in for a while: the pipes and the window are full.
  std::uint64_t went_in = 0;
  int still = 0;
  ASSERT_TRUE(until([&] {
    const std::string piece(4096, 's');
    const ssize_t put = ::write(stuck_in.second.get(), piece.data(), piece.size());
    went_in += put > 0 ? static_cast<std::uint64_t>(put) : 0;
    still = put > 0 ? 0 : still + 1;
    return still > 200;
  }));
  constexpr std::uint64_t kPipe = 64U << 10U;
  EXPECT_LE(went_in, 2 * kPipe + kTestWindow + 4096);
  EXPECT_TRUE(b_->holds_bytes());
  ASSERT_EQ(::write(in.second.get(), "through", 7), 7);
  std::string got;
  ASSERT_TRUE(until([&] {
    got += read_now(out.first.get()).value_or("");
    return got == "through";
  }));
}

TEST_F(Pumps, AReaderThatIsGoneIsToldToTheWriter) {
  Pair in = pipe_pair();
  Pair out = pipe_pair();
  a_->attach(1, {std::move(in.first), UniqueFd()});
  b_->attach(1, {UniqueFd(), std::move(out.second)});
  out.first.reset();  // with nothing written so far
  ASSERT_TRUE(until([&] { return ::write(in.second.get(), "x", 1) < 0 && errno == EPIPE; }));
}

TEST_F(Pumps, ASocketsHalfIsClosedWhileTheOtherGoesOn) {
  Pair left = socket_pair();
  Pair right = socket_pair();
  const auto attach = [](Pump& pump, UniqueFd fd) {
    UniqueFd other(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
    pump.attach(9, {std::move(fd), std::move(other), LocalEnd::Kind::kSocket});
  };
  attach(*a_, std::move(left.first));
  attach(*b_, std::move(right.first));
  ASSERT_EQ(::write(left.second.get(), "question", 8), 8);
  ::shutdown(left.second.get(), SHUT_WR);
  std::string question;
  ASSERT_TRUE(until([&] {
    const auto more = read_now(right.second.get());
    question += more.value_or("");
    return !more;
  }));
  EXPECT_EQ(question, "question");
  ASSERT_EQ(::write(right.second.get(), "answer", 6), 6);
  right.second.reset();
  std::string answer;
  ASSERT_TRUE(until([&] {
    const auto more = read_now(left.second.get());
    answer += more.value_or("");
    return !more;
  }));
  EXPECT_EQ(answer, "answer");
  ASSERT_TRUE(until([&] { return !a_->has(9) && !b_->has(9); }));
}

TEST_F(Pumps, WhatCameBeforeTheConnectionsEndIsStillTaken) {
  std::string said;
  a_->on_message = [&](const json::object& message) { said = get_string(message, "type"); };
  b_->say({{"type", "exit"}});
  std::vector<pollfd> none;
  ASSERT_TRUE(b_->step(none, Millis(0)).ok());
  b_.reset();
  carrier_b_.reset();
  Status status;
  while (status.ok()) {
    status = a_->step(none, Millis(1000));
  }
  EXPECT_EQ(said, "exit");
}

/// A clock that goes on only when it is told to.
class HandClock final : public Clock {
 public:
  [[nodiscard]] Now now() const override { return {{}, at}; }
  MonoTime at{1'000'000};
};

TEST_F(Pumps, AnEndThatFallsSilentIsOverOnceItWasAskedInVain) {
  HandClock clock;
  a_->watch_over(clock, Millis(100), Millis(200));
  ASSERT_TRUE(until([&] { return a_->flushed(); }));
  std::vector<pollfd> none;
  for (int round = 0; round < 20; ++round) {  // it answers each time
    clock.at = clock.at + Millis(150);
    ASSERT_TRUE(a_->step(none, Millis(0)).ok());
    ASSERT_TRUE(b_->step(none, Millis(0)).ok());
    ASSERT_TRUE(b_->step(none, Millis(0)).ok());
    ASSERT_TRUE(a_->step(none, Millis(0)).ok());
  }
  clock.at = clock.at + Millis(100);
  EXPECT_TRUE(a_->step(none, Millis(0)).ok()) << "it is asked";
  clock.at = clock.at + Millis(199);
  EXPECT_TRUE(a_->step(none, Millis(0)).ok()) << "it has a while";
  clock.at = clock.at + Millis(1);
  const Status over = a_->step(none, Millis(0));
  ASSERT_FALSE(over.ok());
  EXPECT_EQ(over.error().code, ErrorCode::kUnavailable);
}

TEST_F(Pumps, AWatcherThatStoodStillItselfFindsTheAnswerThatCameMeanwhile) {
  HandClock clock;
  a_->watch_over(clock, Millis(100), Millis(200));
  ASSERT_TRUE(until([&] { return a_->flushed(); }));
  std::vector<pollfd> none;
  clock.at = clock.at + Millis(100);
  ASSERT_TRUE(a_->step(none, Millis(0)).ok());
  ASSERT_TRUE(b_->step(none, Millis(0)).ok());
  ASSERT_TRUE(b_->step(none, Millis(0)).ok());
  clock.at = clock.at + Millis(1'000'000);
  EXPECT_TRUE(a_->step(none, Millis(0)).ok());
}

TEST_F(Pumps, AnEndThatHasNeverAnsweredIsNotHeldToIt) {
  HandClock clock;
  a_->watch_over(clock, Millis(100), Millis(200));
  std::vector<pollfd> none;
  for (int round = 0; round < 20; ++round) {
    clock.at = clock.at + Millis(150);
    ASSERT_TRUE(a_->step(none, Millis(0)).ok());
  }
}

TEST_F(Pumps, AConnectionOnWhichNothingMovesIsOverInTheEnd) {
  HandClock clock;
  a_->watch_over(clock, Millis(100), Millis(200), Millis(1000));
  std::vector<pollfd> none;
  Status over;
  for (int round = 0; round < 11 && over.ok(); ++round) {
    clock.at = clock.at + Millis(100);
    over = a_->step(none, Millis(0));
    ASSERT_TRUE(b_->step(none, Millis(0)).ok());
  }
  ASSERT_FALSE(over.ok());
  EXPECT_NE(over.error().message.find("Nothing has moved"), std::string::npos);
}

TEST_F(Pumps, AnEndThatAsksForMoreThanItTakesIsRefusedAndToldSo) {
  std::vector<pollfd> none;
  // It sends questions and reads nothing.
  std::string questions;
  for (int i = 0; i < 100'000; ++i) {
    questions += runner::encode_message({{"type", "ping"}});
  }
  std::size_t at = 0;
  Status over;
  while (over.ok()) {
    const auto put = carrier_a_->send(std::string_view(questions).substr(at));
    ASSERT_TRUE(put.ok());
    at = (at + *put) % questions.size();
    over = b_->step(none, Millis(0));
  }
  EXPECT_EQ(over.error().code, ErrorCode::kInvalid);
  b_->dismiss({{"type", "failed"}});
  bool told = false;
  a_->on_message = [&](const json::object& message) {
    told = told || get_string(message, "type") == "failed";
  };
  for (bool ended = false; !ended;) {
    (void)b_->step(none, Millis(1));
    ended = !a_->step(none, Millis(1)).ok();
  }
  EXPECT_TRUE(told);
}

TEST(ExitCode, IsOneThatAProcessCanHave) {
  EXPECT_EQ(exit_code_of({{"code", 0}}), 0);
  EXPECT_EQ(exit_code_of({{"code", 255}}), 255);
  for (const json::value& odd :
       {json::value(256), json::value(-1), json::value(std::int64_t{1} << 40), json::value("0"),
        json::value(nullptr)}) {
    EXPECT_EQ(exit_code_of({{"code", odd}}), 1);
  }
  EXPECT_EQ(exit_code_of({}), 1);
}

}  // namespace
}  // namespace quad::session
