#include "net/proxy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace quad::net {
namespace {

using testing::HasSubstr;

std::string proxy_for(std::string_view url, const std::map<std::string, std::string>& variables) {
  return proxy_from_environment(url, [&](std::string_view name) -> std::optional<std::string> {
    const auto found = variables.find(std::string(name));
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
}

TEST(Proxy, ComesFromTheVariableOfTheScheme) {
  const std::map<std::string, std::string> variables{{"HTTPS_PROXY", "http://s:1"},
                                                     {"https_proxy", "http://lower:1"},
                                                     {"http_proxy", "http://p:1"}};
  EXPECT_EQ(proxy_for("https://api.lab:6443", variables), "http://s:1");
  EXPECT_EQ(proxy_for("http://api.lab", variables), "http://p:1");
  EXPECT_EQ(proxy_for("https://api.lab", {}), "");
}

TEST(Proxy, IsNotUsedForThisMachine) {
  const std::map<std::string, std::string> variables{{"HTTPS_PROXY", "http://s:1"}};
  EXPECT_EQ(proxy_for("https://localhost:6443", variables), "");
  EXPECT_EQ(proxy_for("https://127.0.0.5:6443", variables), "");
  EXPECT_EQ(proxy_for("https://[::1]:6443", variables), "");
  EXPECT_EQ(proxy_for("unix:/a/socket", variables), "");
}

TEST(Proxy, IsNotUsedForWhatNoProxyNames) {
  const auto used = [](std::string_view url, const std::string& no_proxy) {
    return !proxy_for(url, {{"HTTPS_PROXY", "http://s:1"}, {"no_proxy", no_proxy}}).empty();
  };
  EXPECT_FALSE(used("https://api.lab", "*"));
  EXPECT_FALSE(used("https://api.lab", "x, API.lab"));
  EXPECT_FALSE(used("https://api.lab", "lab"));
  EXPECT_FALSE(used("https://api.lab", ".lab"));
  EXPECT_FALSE(used("https://api.lab", "*.lab"));
  EXPECT_TRUE(used("https://lab", ".lab"));
  EXPECT_TRUE(used("https://mylab", "lab"));
  EXPECT_FALSE(used("https://api.lab:6443", "api.lab:6443"));
  EXPECT_TRUE(used("https://api.lab:6443", "api.lab:443"));
  EXPECT_FALSE(used("https://10.1.2.3:6443", "10.1.0.0/16"));
  EXPECT_TRUE(used("https://10.2.2.3:6443", "10.1.0.0/16"));
  EXPECT_FALSE(used("https://10.1.2.3:6443", "10.1.2.3"));
  EXPECT_FALSE(used("https://[fd00::7]:6443", "fd00::/8"));
  EXPECT_FALSE(used("https://[fd00::7]:6443", "fd00:0::7"));
  EXPECT_TRUE(used("https://api.lab", "10.1.0.0/x, ,/"));
}

TEST(Proxy, AnAddressIsTakenApart) {
  const auto plain = parse_proxy("proxy.lab:3128");
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->url, "http://proxy.lab:3128");
  EXPECT_EQ(plain->authorization, "");
  const auto named = parse_proxy("http://me:p%40ss@proxy.lab:3128/");
  ASSERT_TRUE(named.ok()) << named.error().message;
  EXPECT_EQ(named->url, "http://proxy.lab:3128/");
  EXPECT_EQ(named->authorization, "Basic bWU6cEBzcw==");
  EXPECT_EQ(parse_proxy("socks5://proxy.lab").error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(parse_proxy("http://").error().message, HasSubstr("is not a proxy's address"));
}

}  // namespace
}  // namespace quad::net
