#include "server/authority.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <thread>

#include "base/file.h"
#include "net/exchange.h"
#include "net/http_client.h"
#include "net/http_server.h"
#include "server/certificate_watch.h"

namespace quad::server {
namespace {

namespace fs = std::filesystem;

constexpr WallTime kNow{1'795'454'200'000};
constexpr std::int64_t kDay = 86'400'000;

class OwnCertificate : public testing::Test {
 protected:
  fs::path folder_ = fs::path(testing::TempDir()) / fmt::format("own-certificate-{}", ::getpid());
  const std::vector<std::string> names_ = {"localhost", "127.0.0.1", "quad.example.edu"};

  void SetUp() override {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  config::Tls made(const std::vector<std::string>& names, WallTime now = kNow) {
    auto files = own_certificate(folder_, names, now);
    EXPECT_TRUE(files.ok()) << files.error().message;
    return files.ok() ? files.value() : config::Tls{};
  }
  static std::string text(const std::string& file) { return read_file(file).value(); }
};

TEST_F(OwnCertificate, IsMadeOnceAndItsKeysAreNobodyElses) {
  const config::Tls first = made(names_);
  for (const std::string& key : {first.key, (folder_ / "tls/ca.key").string()}) {
    struct stat info {};
    ASSERT_EQ(::stat(key.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777U, 0600U) << key;
  }
  const std::string before = text(first.certificate);
  made({"localhost"});
  EXPECT_EQ(text(first.certificate), before) << "it says all of that already";
}

TEST_F(OwnCertificate, IsRenewedByTheSameAuthorityForAnotherNameAndBeforeItExpires) {
  const config::Tls first = made(names_);
  const std::string authority = text(first.ca);
  std::string before = text(first.certificate);
  made({"localhost", "10.0.0.9"});
  EXPECT_NE(text(first.certificate), before);
  before = text(first.certificate);
  made({"localhost"}, WallTime{kNow.millis + 300 * kDay});
  EXPECT_EQ(text(first.certificate), before);
  made({"localhost"}, WallTime{kNow.millis + 400 * kDay});
  EXPECT_NE(text(first.certificate), before);
  EXPECT_EQ(text(first.ca), authority) << "whoever trusts it goes on";
}

TEST_F(OwnCertificate, ADamagedAuthorityIsNotReplaced) {
  const config::Tls first = made(names_);
  ASSERT_TRUE(write_file_atomically(folder_ / "tls/ca.key", "nothing", 0600).ok());
  const auto again = own_certificate(folder_, names_, kNow);
  ASSERT_FALSE(again.ok());
  EXPECT_NE(again.error().message.find("do not belong together"), std::string::npos);
}

TEST_F(OwnCertificate, IsTrustedByWhoeverTrustsItsAuthority) {
  const SystemClock clock;
  const config::Tls files = made(names_, clock.now().wall);
  boost::asio::io_context io;
  net::Router router;
  router.get("/", [](net::Exchange& e) -> boost::asio::awaitable<void> {
    e.respond(net::text_response("hello"));
    co_return;
  });
  net::HttpServer server(io, std::move(router), {});
  const auto port = server.listen_tls("127.0.0.1", 0, {files.certificate, files.key});
  ASSERT_TRUE(port.ok()) << port.error().message;
  std::thread thread([&] { io.run(); });
  const auto ask = [&](const std::string& ca) {
    net::ClientOptions options;
    options.url = "https://127.0.0.1:" + std::to_string(*port);
    options.ca_file = ca;
    auto client = net::HttpClient::create(std::move(options));
    return client.ok() && client->get("/").ok();
  };
  EXPECT_TRUE(ask(files.ca));
  EXPECT_FALSE(ask("")) << "not by the machine's authorities";
  io.stop();
  thread.join();
}

TEST(NamesOf, AreAllAddressesThatTheConfigurationGives) {
  config::Config config;
  config.listen = "0.0.0.0";
  config.url = "https://quad.example.edu:8443";
  config.kubernetes.resize(1);
  config.kubernetes[0].server_url = "https://[fd00::7]:8443";
  const auto names = names_of(config);
  for (const char* name : {"localhost", "quad.example.edu", "fd00::7"}) {
    EXPECT_NE(std::find(names.begin(), names.end(), name), names.end()) << name;
  }
  EXPECT_EQ(std::find(names.begin(), names.end(), "0.0.0.0"), names.end());
}

TEST_F(OwnCertificate, IsRenewedWhileTheServerRuns) {
  const config::Tls files = made(names_);
  std::vector<std::string> shown;
  Status answer;
  CertificateWatch watch(
      files,
      [&](WallTime now) {
        const auto renewed = own_certificate(folder_, names_, now);
        return renewed.ok() ? Status() : Status(renewed.error());
      },
      [&](const config::Tls& used) {
        shown.push_back(text(used.certificate));
        return answer;
      });
  watch.look(kNow);
  watch.look(kNow + Millis(300 * kDay));
  EXPECT_EQ(shown.size(), 0U) << "it lasts";
  answer = error(ErrorCode::kIo, "The disk is gone");
  watch.look(kNow + Millis(366 * kDay));
  answer = Status();
  watch.look(kNow + Millis(366 * kDay + 60'000));
  watch.look(kNow + Millis(366 * kDay + 120'000));
  ASSERT_EQ(shown.size(), 2U) << "once in vain";
  EXPECT_EQ(shown[1], text(files.certificate));
}

TEST_F(OwnCertificate, OfSomebodyElsesIsTakenUpWhenItsFileHasChanged) {
  const config::Tls files = made(names_);
  int uses = 0;
  CertificateWatch watch(files, {}, [&](const config::Tls&) {
    ++uses;
    return Status();
  });
  watch.look(kNow);
  EXPECT_EQ(uses, 0);
  ASSERT_TRUE(write_file_atomically(files.certificate, "another", 0644).ok());
  watch.look(kNow + Millis(60'000));
  watch.look(kNow + Millis(120'000));
  EXPECT_EQ(uses, 1);
}

}  // namespace
}  // namespace quad::server
