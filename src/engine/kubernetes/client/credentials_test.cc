#include "engine/kubernetes/client/credentials.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "base/file.h"
#include "base/text.h"
#include "engine/kubernetes/client/exec_plugin.h"
#include "engine/kubernetes/client/scripted_server.h"

namespace quad::kubernetes {
namespace {

using testing::HasSubstr;

class ManualClock final : public Clock {
 public:
  [[nodiscard]] Now now() const override {
    const auto millis = millis_.load();
    return {WallTime{1'800'000'000'000 + millis}, MonoTime{millis}};
  }
  void pass(Millis time) { millis_ += time.count(); }

 private:
  std::atomic<std::int64_t> millis_{1'000};
};

class CredentialsTest : public testing::Test {
 protected:
  CredentialsTest() { std::filesystem::create_directories(folder_); }
  ~CredentialsTest() override { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& name, std::string_view text) {
    EXPECT_TRUE(write_file_atomically(folder_ / name, text, 0755).ok());
    return (folder_ / name).string();
  }
  /// A plugin that is a shell script.
  ExecPlugin plugin(std::string_view script) {
    ExecPlugin plugin;
    plugin.command = write("plugin", "#!/bin/sh\n" + std::string(script));
    plugin.api_version = "client.authentication.k8s.io/v1";
    return plugin;
  }
  Result<PluginCredential> run(const ExecPlugin& plugin, Millis timeout = Millis(20'000)) {
    return run_plugin(plugin, access_, timeout, *cancel_);
  }

  /// What a plugin must print for that status.
  static std::string credential(std::string_view status) {
    return fmt::format(
        "echo '{{\"kind\": \"ExecCredential\", \"apiVersion\": "
        "\"client.authentication.k8s.io/v1\", \"status\": {{{}}}}}'\n",
        status);
  }

  std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("quad-credentials-" + random_hex(6));
  ManualClock clock_;
  std::shared_ptr<net::Cancel> cancel_ = net::Cancel::create().value();
  ClusterAccess access_;
};

TEST_F(CredentialsTest, APluginIsGivenItsArgumentsAndEnvironmentAsTheyAre) {
  auto plugin = this->plugin("printf '%s|' \"$1\" \"$2\" \"$REGION\" \"$KUBERNETES_EXEC_INFO\" >" +
                             (folder_ / "seen").string() + "\n" + credential(R"("token": "abc")"));
  plugin.args = {"a b", "$HOME"};
  plugin.env = {{"REGION", "north"}};
  plugin.provide_cluster_info = true;
  access_.server = "https://lab";
  const auto given = run(plugin);
  ASSERT_TRUE(given.ok()) << given.error().message;
  EXPECT_EQ(given->token, "abc");
  EXPECT_FALSE(given->expires.has_value());
  const auto seen = read_file(folder_ / "seen");
  EXPECT_THAT(*seen, HasSubstr("a b|$HOME|north|{\"kind\":\"ExecCredential\""));
  EXPECT_THAT(*seen, HasSubstr("\"server\":\"https://lab\""));
}

TEST_F(CredentialsTest, APluginsFailureNamesIt) {
  const auto failed = run(plugin("echo 'please log in first' >&2; exit 3\n"));
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, ErrorCode::kDenied);
  EXPECT_EQ(failed.error().message, "The credential plugin '" + (folder_ / "plugin").string() +
                                        "' failed with exit code 3: please log in first.");
  EXPECT_THAT(run(plugin("kill -9 $$\n")).error().message, HasSubstr("was killed by signal 9"));
  EXPECT_THAT(run(plugin("")).error().message, HasSubstr("printed nothing"));
  EXPECT_THAT(run(plugin("echo hello\n")).error().message, HasSubstr("no ExecCredential in JSON"));
  EXPECT_THAT(run(plugin(credential(""))).error().message,
              HasSubstr("with neither a token nor a certificate"));
  EXPECT_THAT(run(plugin(credential(R"("clientCertificateData": "c")"))).error().message,
              HasSubstr("a certificate without its key"));
  EXPECT_THAT(run(plugin("yes | head -c 3000000\n")).error().message,
              HasSubstr("printed more than 1 MiB"));
  auto missing = plugin("");
  missing.command = "quad-no-such-plugin";
  missing.install_hint = "get it from the wiki\n";
  EXPECT_EQ(run(missing).error().message,
            "The credential plugin 'quad-no-such-plugin' is not installed: get it from the wiki.");
}

TEST_F(CredentialsTest, APluginThatHangsIsKilledWithItsChildren) {
  const auto pid_file = (folder_ / "pid").string();
  const auto hung = run(plugin("sleep 1000 & echo $! >" + pid_file + "; wait\n"), Millis(1'000));
  ASSERT_FALSE(hung.ok());
  EXPECT_EQ(hung.error().code, ErrorCode::kTimeout);
  EXPECT_THAT(hung.error().message, HasSubstr("gave no credential within 1"));
  const auto pid = read_file(pid_file);
  ASSERT_TRUE(pid.ok());
  EXPECT_TRUE(eventually([&] {
    // Gone, or a zombie that nobody has reaped yet.
    const auto state = read_file("/proc/" + std::string(trim(*pid)) + "/stat");
    return !state.ok() || state->find(") Z ") != std::string::npos;
  }));
}

TEST_F(CredentialsTest, AChildThatAPluginLeavesBehindDoesNotHoldItUp) {
  const auto given = run(plugin("sleep 30 &\n" + credential(R"("token": "abc")")));
  ASSERT_TRUE(given.ok()) << given.error().message;
  EXPECT_EQ(given->token, "abc");
}

TEST_F(CredentialsTest, ACancelEndsAPluginsRunAtOnce) {
  std::thread other([this] { cancel_->cancel(); });
  const auto run_result = run(plugin("sleep 1000\n"), Millis(900'000));
  other.join();
  ASSERT_FALSE(run_result.ok());
  EXPECT_EQ(run_result.error().code, ErrorCode::kUnavailable);
}

TEST_F(CredentialsTest, APluginRunsAgainOnlyWhenItsCredentialExpires) {
  access_.login.exec = plugin("echo x >>" + (folder_ / "runs").string() + "\n" +
                              credential("\"token\": \"t'$(wc -l <" + (folder_ / "runs").string() +
                                         ")'\", \"expirationTimestamp\": "
                                         "\"2027-01-15T08:01:00Z\""));
  // The clock begins at 2027-01-15T08:00:01Z.
  Credentials credentials(access_, clock_);
  const auto token = [&] {
    const auto got = credentials.get(*cancel_);
    return got.ok() ? (*got)->authorization : got.error().message;
  };
  EXPECT_EQ(token(), "Bearer t1");
  clock_.pass(Millis(50'000));
  EXPECT_EQ(token(), "Bearer t1");
  clock_.pass(Millis(5'000));
  EXPECT_EQ(token(), "Bearer t2") << "shortly before its end";
}

TEST_F(CredentialsTest, ManyThreadsRunAPluginOnce) {
  access_.login.exec =
      plugin("echo x >>" + (folder_ / "runs").string() + "\n" + credential(R"("token": "abc")"));
  Credentials credentials(access_, clock_);
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      const auto got = credentials.get(*cancel_);
      right += got.ok() && (*got)->authorization == "Bearer abc" ? 1 : 0;
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(right, 8);
  EXPECT_EQ(*read_file(folder_ / "runs"), "x\n");
}

TEST_F(CredentialsTest, ARotatedTokenIsReadAgain) {
  access_.login.token_file = write("token", "one\n");
  Credentials credentials(access_, clock_);
  const auto first = credentials.get(*cancel_);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ((*first)->authorization, "Bearer one");
  write("token", "two\n");
  EXPECT_EQ((*credentials.get(*cancel_))->authorization, "Bearer one") << "not for each request";
  clock_.pass(Millis(10'000));
  const auto second = credentials.get(*cancel_);
  EXPECT_EQ((*second)->authorization, "Bearer two");
  EXPECT_NE((*second)->generation, (*first)->generation);
}

TEST_F(CredentialsTest, ARefusedCredentialIsMadeAnewButNotInACircle) {
  access_.login.certificate_file = write("cert", "C1");
  access_.login.key_file = write("key", "K1");
  Credentials credentials(access_, clock_);
  const auto first = *credentials.get(*cancel_);
  write("cert", "C2");
  credentials.refused(first->generation);
  EXPECT_EQ((*credentials.get(*cancel_))->certificate_pem, "C1") << "it was only just read";
  clock_.pass(Millis(2'000));
  credentials.refused(first->generation + 7);
  EXPECT_EQ((*credentials.get(*cancel_))->certificate_pem, "C1") << "that was another one";
  credentials.refused(first->generation);
  EXPECT_EQ((*credentials.get(*cancel_))->certificate_pem, "C2");
}

TEST_F(CredentialsTest, AFailureIsNotRepeatedAtOnce) {
  access_.login.token_file = (folder_ / "token").string();
  Credentials credentials(access_, clock_);
  const auto missing = credentials.get(*cancel_);
  ASSERT_FALSE(missing.ok());
  EXPECT_THAT(missing.error().message,
              HasSubstr("The token for the Kubernetes API server cannot be read"));
  write("token", "one");
  EXPECT_FALSE(credentials.get(*cancel_).ok());
  clock_.pass(Millis(2'000));
  EXPECT_TRUE(credentials.get(*cancel_).ok());
}

TEST_F(CredentialsTest, NamesAUserByPassword) {
  access_.login.basic_user = "Aladdin";
  access_.login.basic_password = "open sesame";
  Credentials credentials(access_, clock_);
  EXPECT_EQ((*credentials.get(*cancel_))->authorization, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
}

}  // namespace
}  // namespace quad::kubernetes
