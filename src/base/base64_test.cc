#include "base/base64.h"

#include <gtest/gtest.h>

namespace quad {
namespace {

TEST(Base64, IsAsTheRfcShows) {
  const std::pair<const char*, const char*> examples[] = {{"", ""},
                                                          {"f", "Zg=="},
                                                          {"fo", "Zm8="},
                                                          {"foo", "Zm9v"},
                                                          {"foob", "Zm9vYg=="},
                                                          {"fooba", "Zm9vYmE="},
                                                          {"foobar", "Zm9vYmFy"}};
  for (const auto& [bytes, text] : examples) {
    EXPECT_EQ(base64_encode(bytes), text);
    EXPECT_EQ(base64_decode(text), bytes);
  }
  const std::string all("\x00\xff\x80\x7f\xfe", 5);
  EXPECT_EQ(base64_decode(base64_encode(all)), all);
}

TEST(Base64, PassesOverLineBreaksAndNothingElse) {
  EXPECT_EQ(base64_decode("Zm9v\n YmFy\r\n"), "foobar");
  for (const char* broken : {"Z", "Zg", "Zg=", "Zg===", "=", "Zm9v=", "Zg==Zg==", "Zm9-", "Zm%v"}) {
    EXPECT_EQ(base64_decode(broken), std::nullopt) << broken;
  }
}

}  // namespace
}  // namespace quad
