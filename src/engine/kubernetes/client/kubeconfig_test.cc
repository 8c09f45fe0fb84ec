#include "engine/kubernetes/client/kubeconfig.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "base/base64.h"
#include "base/file.h"
#include "base/text.h"

namespace quad::kubernetes {
namespace {

using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Pair;

class KubeconfigTest : public testing::Test {
 protected:
  KubeconfigTest() { std::filesystem::create_directories(folder_); }
  ~KubeconfigTest() override { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& name, std::string_view text) {
    const auto path = folder_ / name;
    std::filesystem::create_directories(path.parent_path());
    EXPECT_TRUE(write_file_atomically(path, text).ok());
    return path.string();
  }

  /// A whole kubeconfig around the content of its one cluster and one user.
  static std::string one(std::string_view cluster, std::string_view user) {
    return "apiVersion: v1\nkind: Config\ncurrent-context: lab\n"
           "contexts:\n- name: lab\n  context: {cluster: c, user: u, namespace: train}\n"
           "clusters:\n- name: c\n  cluster:\n" +
           std::string(cluster) + "users:\n- name: u\n  user:\n" + std::string(user);
  }

  Result<ClusterAccess> find(const AccessRequest& request) {
    return find_access(request, [this](std::string_view name) -> std::optional<std::string> {
      const auto found = variables_.find(std::string(name));
      return found == variables_.end() ? std::nullopt : std::optional(found->second);
    });
  }
  Result<ClusterAccess> find_file(const std::string& path, const std::string& context = {}) {
    AccessRequest request;
    request.kubeconfig = path;
    request.context = context;
    return find(request);
  }
  /// The message with which that cluster and user are refused, without the folder's name.
  std::string refusal(std::string_view cluster, std::string_view user) {
    const auto access = find_file(write("config", one(cluster, user)));
    EXPECT_FALSE(access.ok());
    return access.ok() ? "" : access.error().message.substr(folder_.string().size() + 1);
  }

  std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("quad-kubeconfig-" + random_hex(6));
  std::map<std::string, std::string> variables_;
};

constexpr std::string_view kCluster = "    server: https://10.0.0.1:6443\n";
constexpr std::string_view kUser = "    token: secret\n";

TEST_F(KubeconfigTest, ReadsAClusterAndItsUser) {
  write("pki/ca.pem", "AUTHORITY");
  const auto access = find_file(write(
      "config", one("    server: https://api.lab:6443\n    certificate-authority: pki/ca.pem\n"
                    "    tls-server-name: kubernetes\n    proxy-url: http://proxy:3128\n",
                    "    client-certificate-data: " + base64_encode("CERT") +
                        "\n    client-key-data: " + base64_encode("KEY") +
                        "\n    as: boss\n    as-groups: [a, b]\n")));
  ASSERT_TRUE(access.ok()) << access.error().message;
  EXPECT_EQ(access->context, "lab");
  EXPECT_EQ(access->name_space, "train");
  EXPECT_EQ(access->server, "https://api.lab:6443");
  EXPECT_EQ(access->ca_pem, "AUTHORITY");
  EXPECT_EQ(access->tls_server_name, "kubernetes");
  EXPECT_EQ(access->proxy, "http://proxy:3128");
  EXPECT_TRUE(access->verify);
  EXPECT_EQ(access->login.certificate_pem, "CERT");
  EXPECT_EQ(access->login.key_pem, "KEY");
  EXPECT_THAT(access->login.impersonation,
              ElementsAre(Pair("Impersonate-User", "boss"), Pair("Impersonate-Group", "a"),
                          Pair("Impersonate-Group", "b")));
}

TEST_F(KubeconfigTest, ReadsAnExecPlugin) {
  const auto access = find_file(write(
      "config",
      one(kCluster,
          "    exec:\n      apiVersion: client.authentication.k8s.io/v1\n      command: bin/login\n"
          "      args: [get, token]\n      env:\n      - {name: REGION, value: north}\n"
          "      installHint: see the wiki\n      interactiveMode: Never\n"
          "      provideClusterInfo: true\n")));
  ASSERT_TRUE(access.ok()) << access.error().message;
  ASSERT_TRUE(access->login.exec.has_value());
  const auto& plugin = *access->login.exec;
  EXPECT_EQ(plugin.command, (folder_ / "bin/login").string());
  EXPECT_THAT(plugin.args, ElementsAre("get", "token"));
  EXPECT_THAT(plugin.env, ElementsAre(Pair("REGION", "north")));
  EXPECT_EQ(plugin.install_hint, "see the wiki");
  EXPECT_TRUE(plugin.provide_cluster_info);
}

TEST_F(KubeconfigTest, ReadsJsonIndentedWithTabs) {
  const auto access =
      find_file(write("config",
                      "{\n\t\"current-context\": \"x\",\n\t\"contexts\": [{\"name\": "
                      "\"x\",\n\t\"context\": {\"cluster\": \"c\"}}],\n\t\"clusters\": "
                      "[{\"name\": \"c\",\n\t\t\"cluster\": {\"server\": "
                      "\"http://a:1\"}}]\n}\n"));
  ASSERT_TRUE(access.ok()) << access.error().message;
  EXPECT_EQ(access->server, "http://a:1");
  EXPECT_EQ(access->name_space, "default");
}

TEST_F(KubeconfigTest, TheFirstFileThatHasAnEntryWins) {
  const auto first = write("a/config",
                           "current-context: two\nclusters:\n- name: c\n  cluster: {server: "
                           "'https://first'}\n");
  const auto second =
      write("b/config",
            "current-context: one\ncontexts:\n- name: one\n  context: {cluster: d}\n- name: two\n"
            "  context: {cluster: c, user: u}\nclusters:\n- name: c\n  cluster: {server: "
            "'https://second', insecure-skip-tls-verify: true}\n- name: d\n  cluster: {server: "
            "'https://third'}\nusers:\n- name: u\n  user: {tokenFile: token}\n");
  variables_["KUBECONFIG"] = first + ":" + (folder_ / "missing").string() + ":" + second;
  auto access = find({});
  ASSERT_TRUE(access.ok()) << access.error().message;
  EXPECT_EQ(access->context, "two");
  EXPECT_EQ(access->server, "https://first");
  EXPECT_TRUE(access->verify) << "entries are not mixed";
  EXPECT_EQ(access->login.token_file, (folder_ / "b/token").string());
  AccessRequest request;
  request.context = "one";
  access = find(request);
  ASSERT_TRUE(access.ok()) << access.error().message;
  EXPECT_EQ(access->server, "https://third");
  const auto names = context_names({}, [&](std::string_view name) -> std::optional<std::string> {
    return name == "KUBECONFIG" ? std::optional(variables_["KUBECONFIG"]) : std::nullopt;
  });
  ASSERT_TRUE(names.ok());
  EXPECT_THAT(*names, ElementsAre("one", "two"));
}

TEST_F(KubeconfigTest, FallsBackToTheHomeAndThenToThePod) {
  variables_["HOME"] = folder_.string();
  auto nothing = find({});
  ASSERT_FALSE(nothing.ok());
  EXPECT_EQ(nothing.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(nothing.error().message, "There is no kubeconfig: " + folder_.string() +
                                         "/.kube/config is not there, and this does not run in a "
                                         "pod; name one.");
  AccessRequest request;
  request.service_account_folder = (folder_ / "sa").string();
  write("sa/token", "pod-token\n");
  write("sa/ca.crt", "AUTHORITY");
  write("sa/namespace", "quad\n");
  variables_["KUBERNETES_SERVICE_HOST"] = "fd00::1";
  variables_["KUBERNETES_SERVICE_PORT"] = "443";
  auto pod = find(request);
  ASSERT_TRUE(pod.ok()) << pod.error().message;
  EXPECT_EQ(pod->server, "https://[fd00::1]:443");
  EXPECT_EQ(pod->name_space, "quad");
  EXPECT_EQ(pod->ca_pem, "AUTHORITY");
  EXPECT_EQ(pod->login.token_file, (folder_ / "sa/token").string());

  write(".kube/config", one(kCluster, kUser));
  EXPECT_EQ(find(request)->context, "lab") << "a kubeconfig goes before the pod";
  request.in_cluster = true;
  EXPECT_EQ(find(request)->context, "in-cluster");
  std::filesystem::remove(folder_ / "sa/token");
  const auto without = find(request);
  ASSERT_FALSE(without.ok());
  EXPECT_THAT(without.error().message, HasSubstr("automountServiceAccountToken"));
}

TEST_F(KubeconfigTest, TakesTheProxyFromTheEnvironment) {
  variables_["https_proxy"] = "http://proxy:3128";
  variables_["NO_PROXY"] = "10.1.0.0/16,.lab";
  const auto proxy = [&](const std::string& server) {
    auto access = find_file(write("config", one("    server: " + server + "\n", kUser)));
    return access.ok() ? access->proxy : access.error().message;
  };
  EXPECT_EQ(proxy("https://10.0.0.1:6443"), "http://proxy:3128");
  EXPECT_EQ(proxy("https://10.1.0.1:6443"), "");
  EXPECT_EQ(proxy("https://api.lab"), "");
}

TEST_F(KubeconfigTest, SaysWhereAFaultIs) {
  EXPECT_EQ(refusal("    server: 12\n", kUser),
            "config:10: clusters[0].cluster.server must be a text, not 12; put it in quotes.");
  EXPECT_EQ(refusal("    certificate-authority: ca.pem\n", kUser),
            "config:10: clusters[0].cluster has no server; write the API server's URL there.");
  EXPECT_EQ(refusal(std::string(kCluster) + "    certificate-authority-data: '%'\n", kUser),
            "config:11: clusters[0].cluster.certificate-authority-data is not base64.");
  EXPECT_EQ(refusal(std::string(kCluster) + "    insecure-skip-tls-verify: maybe\n", kUser),
            "config:11: clusters[0].cluster.insecure-skip-tls-verify must be true or false, not "
            "\"maybe\".");
  EXPECT_THAT(refusal(std::string(kCluster) + "    proxy-url: socks5://x:1\n", kUser),
              HasSubstr("proxy-url is of no use: 'socks5' proxies are not supported"));
  EXPECT_THAT(refusal(std::string(kCluster) + "    certificate-authority: nowhere.pem\n", kUser),
              HasSubstr("certificate-authority names a file that cannot be read"));
  EXPECT_EQ(refusal(kCluster, "    client-certificate-data: QQ==\n"),
            "config:14: users[0].user has a client certificate, but no client-key[-data].");
  EXPECT_THAT(refusal(kCluster, "    auth-provider: {name: gcp}\n"),
              HasSubstr("users[0].user.auth-provider is no longer part of Kubernetes"));
  EXPECT_THAT(
      refusal(kCluster,
              "    exec: {command: x, apiVersion: client.authentication.k8s.io/v1alpha1}\n"),
      HasSubstr("must have apiVersion client.authentication.k8s.io/v1 or"));
  EXPECT_THAT(refusal(kCluster, "    exec: {apiVersion: client.authentication.k8s.io/v1}\n"),
              EndsWith("users[0].user.exec needs a command."));
  EXPECT_THAT(refusal(kCluster, "    token: [\n"), HasSubstr("the kubeconfig cannot be read"));
}

TEST_F(KubeconfigTest, SaysWhatIsMissing) {
  const auto path = write("config", one(kCluster, kUser));
  EXPECT_EQ(find_file(path, "home").error().message,
            path + " has no context 'home'; there are lab.");
  const auto dangling = find_file(
      write("other", "current-context: a\ncontexts:\n- name: a\n  context: {cluster: b}\n"));
  ASSERT_FALSE(dangling.ok());
  EXPECT_THAT(dangling.error().message,
              HasSubstr("contexts[0].context.cluster names the cluster 'b', which is in no file"));
  EXPECT_EQ(dangling.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(find_file((folder_ / "none").string()).error().code, ErrorCode::kNotFound);
  EXPECT_THAT(find_file(write("list", "- a\n")).error().message,
              HasSubstr("this is no kubeconfig"));
}

}  // namespace
}  // namespace quad::kubernetes
