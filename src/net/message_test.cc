#include "net/message.h"

#include <gtest/gtest.h>
#include <boost/asio/awaitable.hpp>

#include "net/exchange.h"
#include "net/router.h"
#include "net/sse.h"

namespace quad::net {
namespace {

Handler nothing() {
  return [](Exchange&) -> boost::asio::awaitable<void> { co_return; };
}

std::string routed(const Router& router, std::string_view method, std::string_view path) {
  const auto match = router.match(method, path);
  if (match.route == nullptr) {
    return match.allowed.empty() ? "404" : "405 " + match.allowed;
  }
  auto text = match.route->method + " " + match.route->pattern;
  for (std::size_t i = 0; i < match.arguments.size(); ++i) {
    text += " " + match.route->names[i] + "=" + std::string(match.arguments[i]);
  }
  return text;
}

TEST(Message, QueryValuesAreDecoded) {
  Request request;
  request.query = "a=1&name=x+y%26z&bare&bad=%zz&a=2";
  EXPECT_EQ(request.query_value("a"), "1");
  EXPECT_EQ(request.query_value("name"), "x y&z");
  EXPECT_EQ(request.query_value("bare"), "");
  EXPECT_EQ(request.query_value("bad"), "%zz");
  EXPECT_EQ(request.query_value("missing"), std::nullopt);
  EXPECT_EQ(request.query_values().size(), 5U);
}

TEST(Message, PercentCodingGoesBothWays) {
  const std::string all = "a/b c%\xC3\xA4~";
  EXPECT_EQ(percent_decode(percent_encode(all)), all);
  EXPECT_EQ(percent_decode("%4"), std::nullopt);
  EXPECT_EQ(percent_decode("%4g"), std::nullopt);
}

TEST(Message, AnErrorComesBackAsItWasSent) {
  const auto sent = error(ErrorCode::kExists, "The job is there.", "jobs/7");
  const auto response = error_response(sent);
  EXPECT_EQ(response.status, 409);
  const auto back = error_of_response(response.status, response.body);
  EXPECT_EQ(back.code, sent.code);
  EXPECT_EQ(back.message, sent.message);
  EXPECT_EQ(back.where, sent.where);
}

TEST(Message, AnAnswerThatIsNoErrorOfOursStillBecomesOne) {
  const auto failure = error_of_response(502, "<html>nginx</html>");
  EXPECT_EQ(failure.code, ErrorCode::kUnavailable);
  EXPECT_EQ(failure.message, "The server answered with HTTP status 502 (Bad Gateway).");
}

TEST(Message, TokensAreFoundInLists) {
  EXPECT_TRUE(list_has_token("keep-alive, Upgrade", "upgrade"));
  EXPECT_FALSE(list_has_token("keep-alive, Upgraded", "upgrade"));
  EXPECT_FALSE(list_has_token("", "upgrade"));
}

TEST(Router, WordsWinOverNamesAndNamesOverTheRest) {
  Router router;
  router.get("/", nothing());
  router.get("/v1/jobs", nothing());
  router.post("/v1/jobs", nothing());
  router.get("/v1/jobs/{id}", nothing());
  router.post("/v1/jobs/validate", nothing());
  router.get("/v1/jobs/{id}/logs", nothing());
  router.get("/{file...}", nothing());
  router.get("/s/{id}/{rest...}", nothing());
  EXPECT_EQ(routed(router, "GET", "/"), "GET /");
  EXPECT_EQ(routed(router, "POST", "/v1/jobs"), "POST /v1/jobs");
  EXPECT_EQ(routed(router, "GET", "/v1/jobs/7"), "GET /v1/jobs/{id} id=7");
  EXPECT_EQ(routed(router, "GET", "/v1/jobs/7/logs"), "GET /v1/jobs/{id}/logs id=7");
  EXPECT_EQ(routed(router, "GET", "/v1/jobs/validate"), "GET /v1/jobs/{id} id=validate");
  EXPECT_EQ(routed(router, "HEAD", "/v1/jobs/7"), "GET /v1/jobs/{id} id=7");
  EXPECT_EQ(routed(router, "GET", "/assets/app.js"), "GET /{file...} file=assets/app.js");
  EXPECT_EQ(routed(router, "GET", "/s/4/a/b"), "GET /s/{id}/{rest...} id=4 rest=a/b");
  EXPECT_EQ(routed(router, "GET", "/s/4"), "GET /s/{id}/{rest...} id=4 rest=");
}

TEST(Router, TellsAWrongMethodFromAWrongPath) {
  Router router;
  router.get("/v1/jobs/{id}", nothing());
  router.add("PUT", "/v1/jobs/{id}", nothing());
  EXPECT_EQ(routed(router, "POST", "/v1/jobs/7"), "405 GET, HEAD, PUT");
  EXPECT_EQ(routed(router, "GET", "/v1/jobs"), "404");
  EXPECT_EQ(routed(router, "GET", "/v1/jobs/"), "404");
  EXPECT_EQ(routed(router, "GET", "/v1/jobs/7/"), "404");
  EXPECT_EQ(routed(router, "GET", "*"), "404");
  EXPECT_EQ(routed(router, "GET", ""), "404");
}

TEST(RouterDeathTest, TwoHandlersForOneRouteAreAProgrammingError) {
  Router router;
  router.get("/a/{x}", nothing());
  EXPECT_DEATH(router.get("/a/{y}", nothing()), "two handlers");
}

TEST(Sse, WhatIsFormattedIsParsedInAnyPieces) {
  std::string text;
  append_sse(text, "41", "job", "first\nsecond\r\n\rfourth");
  text += kSseHeartbeat;
  append_sse(text, "42", "", "");
  append_sse(text, "", "bye\nid: 99", "x");
  for (std::size_t size = 1; size < text.size(); ++size) {
    SseParser parser;
    std::vector<SseEvent> events;
    for (std::size_t at = 0; at < text.size(); at += size) {
      const auto fed = parser.feed(std::string_view(text).substr(at, size), [&](const SseEvent& e) {
        events.push_back(e);
        return true;
      });
      ASSERT_TRUE(fed.ok());
    }
    ASSERT_EQ(events.size(), 3U) << "in pieces of " << size;
    EXPECT_EQ(events[0].data, "first\nsecond\n\nfourth");
    EXPECT_EQ(events[0].event, "job");
    EXPECT_EQ(events[0].id, "41");
    EXPECT_EQ(events[1].event, "message");
    EXPECT_EQ(events[1].data, "");
    EXPECT_EQ(events[2].event, "byeid: 99");
    EXPECT_EQ(events[2].id, "42") << "the last id holds on";
  }
}

TEST(Sse, StopsWhereTheSinkAsks) {
  SseParser parser;
  int seen = 0;
  const auto fed = parser.feed("data: 1\n\ndata: 2\n\n", [&](const SseEvent&) {
    ++seen;
    return false;
  });
  ASSERT_TRUE(fed.ok());
  EXPECT_FALSE(*fed);
  EXPECT_EQ(seen, 1);
}

TEST(Sse, AnEventWithoutAnEndIsAnErrorAndNotAllTheMemory) {
  SseParser parser(100);
  const auto sink = [](const SseEvent&) { return true; };
  ASSERT_TRUE(parser.feed("data: " + std::string(50, 'x'), sink).ok());
  const auto fed = parser.feed(std::string(60, 'x'), sink);
  ASSERT_FALSE(fed.ok());
  EXPECT_EQ(fed.error().code, ErrorCode::kExhausted);
}

}  // namespace
}  // namespace quad::net
