// base/git_address.h
//
// From where git is let fetch what a job brings. Pure, any thread.

#pragma once

#include <string_view>

namespace quad {

/// https, http, ssh, git and file addresses, HOST:PATH and paths. Not, for example, `ext::COMMAND`,
/// which is a program to run, and `fd::17`, which waits for whatever that is.
bool is_git_address(std::string_view url);

}  // namespace quad
