#include "engine/kubernetes/client/api_error.h"

#include <gtest/gtest.h>

namespace quad::kubernetes {
namespace {

TEST(ApiError, IsTheServersSentenceWithWhatWasTried) {
  const auto failed = error_of_body(
      403,
      R"({"kind":"Status","message":"pods \"a\" is forbidden: exceeded quota: gpus, requested: 8, used: 0, limited: 4","reason":"Forbidden","code":403})",
      "create pods 'train/a'");
  EXPECT_EQ(failed.error.code, ErrorCode::kDenied);
  EXPECT_EQ(failed.error.message,
            "Cannot create pods 'train/a': pods \"a\" is forbidden: exceeded quota: gpus, "
            "requested: 8, used: 0, limited: 4 (403 Forbidden).");
  EXPECT_EQ(failed.failure.reason, "Forbidden");
  EXPECT_EQ(failed.failure.message,
            "pods \"a\" is forbidden: exceeded quota: gpus, requested: 8, used: 0, limited: 4");
}

TEST(ApiError, TellsTheCausesThatTheMessageLeavesOut) {
  const auto failed = error_of_body(
      422,
      R"({"kind":"Status","message":"Pod \"a\" is invalid: spec.x: Required value","reason":"Invalid",
          "details":{"retryAfterSeconds":3,"causes":[
            {"reason":"FieldValueRequired","message":"Required value","field":"spec.x"},
            {"reason":"FieldValueInvalid","message":"must be positive","field":"spec.y"}]}})",
      "create pods 'a'");
  EXPECT_EQ(failed.error.code, ErrorCode::kInvalid);
  EXPECT_EQ(failed.error.message,
            "Cannot create pods 'a': Pod \"a\" is invalid: spec.x: Required value; spec.y: must be "
            "positive (422 Invalid).");
  EXPECT_EQ(failed.failure.retry_after, Millis(3'000));
  EXPECT_TRUE(failed.failure.has_cause("FieldValueInvalid"));
  EXPECT_FALSE(failed.failure.has_cause("NamespaceTerminating"));
}

TEST(ApiError, MakesDoWithWhateverAProxySays) {
  EXPECT_EQ(error_of_body(502, "<html>oops</html>", "get nodes 'n'").error.message,
            "Cannot get nodes 'n': the Kubernetes API server answered 502 Bad Gateway.");
  EXPECT_EQ(
      error_of_body(429, "Too many requests, please try again later.\n", "get x").error.message,
      "Cannot get x: Too many requests, please try again later (429 Too Many Requests).");
  EXPECT_EQ(error_of_body(500, "", "get x").error.code, ErrorCode::kUnavailable);
}

TEST(ApiError, GivesEachStatusItsCode) {
  const auto code = [](int http) { return error_of_body(http, "", "x").error.code; };
  EXPECT_EQ(code(401), ErrorCode::kDenied);
  EXPECT_EQ(code(404), ErrorCode::kNotFound);
  EXPECT_EQ(code(409), ErrorCode::kExists);
  EXPECT_EQ(code(410), ErrorCode::kNotFound);
  EXPECT_EQ(code(415), ErrorCode::kUnsupported);
  EXPECT_EQ(code(429), ErrorCode::kExhausted);
  EXPECT_EQ(code(504), ErrorCode::kUnavailable);
}

}  // namespace
}  // namespace quad::kubernetes
