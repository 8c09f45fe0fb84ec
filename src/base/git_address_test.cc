#include "base/git_address.h"

#include <gtest/gtest.h>

namespace quad {
namespace {

TEST(GitAddress, WhatGitMayFetchFromIsAListAndHelpersAreNotOnIt) {
  for (const char* url :
       {"https://h/x.git", "http://h/x", "ssh://git@h:22/x", "git://h/x", "file:///srv/x.git",
        "git@h:a/b", "h:b", "/srv/x.git", "./x", "[::1]:x"}) {
    EXPECT_TRUE(is_git_address(url)) << url;
  }
  for (const char* url : {"fd::17", "ext::sh -c touch% /tmp/x", "ext::/bin/sh", "foo://h/x",
                          "ftp://h/x", "-x", "--upload-pack=x", "", "fd::17,18/x"}) {
    EXPECT_FALSE(is_git_address(url)) << url;
  }
}

}  // namespace
}  // namespace quad
