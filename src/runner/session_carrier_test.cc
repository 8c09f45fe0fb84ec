#include "runner/session_carrier.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <thread>

#include "base/file.h"
#include "base/text.h"
#include "session/pump.h"

namespace quad::runner {
namespace {

TEST(SessionCarrier, FramesThatComeInOnePieceWithTheAnswerAreSeenAtOnce) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("quad-carrier-" + random_hex(6))).string();
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);

  // A server that says all that it has to say at once, and keeps the connection.
  UniqueFd server;
  std::thread thread([&] {
    server.reset(::accept(listener.get(), nullptr, nullptr));
    char request[4096];
    (void)!::read(server.get(), request, sizeof request);
    (void)write_all(server.get(),
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "
                    "quad-session/1\r\n\r\n" +
                        encode_message({{"type", "begin"}}));
  });
  const SystemClock clock;
  ConnectionOptions options;
  options.endpoint = parse_endpoint("unix:" + path).value();
  options.protocol = session::kUpgradeProtocol;
  options.frames = session::kFrames;
  SessionCarrier carrier(std::move(options), clock);
  const Status opened = carrier.open(Millis(20'000));
  thread.join();
  ::unlink(path.c_str());
  ASSERT_TRUE(opened.ok()) << opened.error().message;

  session::Pump pump(carrier, session::kWindow);
  bool begun = false;
  pump.on_message = [&](const json::object& message) {
    begun = get_string(message, "type") == "begin";
  };
  std::vector<pollfd> none;
  ASSERT_TRUE(pump.step(none, Millis(0)).ok());
  EXPECT_TRUE(begun);
}

}  // namespace
}  // namespace quad::runner
