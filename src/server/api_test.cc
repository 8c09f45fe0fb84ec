// api/openapi.yaml says what the server answers: neither may have a route that the other lacks.

#include <gmock/gmock.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <set>

#include "base/file.h"
#include "server/app.h"
#include "spec/yaml.h"

namespace quad::server {
namespace {

/// Spoken by runners only, and described in docs/runner-protocol.md.
constexpr std::array kRunnerRoutes = {"GET /v1/runner", "GET /v1/runner/session",
                                      "GET /v1/runner/reach"};

std::set<std::string> described_routes() {
  const auto text =
      read_file(std::filesystem::path(QUAD_SOURCE_DIR) / "api" / "openapi.yaml", 1U << 24U);
  const spec::YamlStream yaml =
      spec::read_yaml(text.ok() ? std::string_view(*text) : std::string_view());
  std::set<std::string> routes;
  const spec::Node* paths = yaml.documents.size() == 1 ? yaml.documents[0].find("paths") : nullptr;
  if (paths == nullptr) {
    ADD_FAILURE() << "api/openapi.yaml cannot be read: "
                  << (yaml.error ? yaml.error->message : "it has no paths");
    return routes;
  }
  for (const spec::Entry& path : paths->entries) {
    for (const spec::Entry& operation : path.value.entries) {
      std::string method = spec::json_key(operation.key);
      std::transform(method.begin(), method.end(), method.begin(),
                     [](unsigned char c) { return std::toupper(c); });
      // Whatever answers GET answers HEAD.
      if (method != "PARAMETERS" && method != "HEAD") {
        routes.insert(method + " " + spec::json_key(path.key));
      }
    }
  }
  return routes;
}

TEST(Api, HasExactlyTheRoutesThatItsDescriptionHas) {
  App app;
  const net::Router router = make_routes(app);
  std::set<std::string> served;
  for (const net::Route* route : router.routes()) {
    served.insert(route->method + " " + route->pattern);
  }
  for (const char* route : kRunnerRoutes) {
    EXPECT_EQ(served.erase(route), 1U) << route;
  }
  const std::set<std::string> described = described_routes();
  EXPECT_GT(described.size(), 20U);
  EXPECT_EQ(served, described);
}

}  // namespace
}  // namespace quad::server
