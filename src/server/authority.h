// server/authority.h
//
// A server that listens beyond this machine and was given no certificate makes its own: an
// authority, once, and a certificate that it signs, in the folder `tls` of the data directory
// (keys 0600). Runners and command lines trust the authority, so the certificate can be renewed
// without their noticing: that is done when it names other addresses than it should, or has less
// than half of its time left, at a start and later (certificate_watch.h). Blocks for milliseconds;
// for whoever starts the server.

#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "config/config.h"

namespace quad::server {

/// The folder's files, as the configuration names such. `names` are hosts' names and addresses.
/// kIo with what to do if the folder cannot be used; kInvalid if its authority is damaged: it is
/// not replaced, since whoever trusts it would not trust another.
Result<config::Tls> own_certificate(const std::filesystem::path& data_dir,
                                    const std::vector<std::string>& names, WallTime now);

/// What people and runners may call a server of this configuration.
std::vector<std::string> names_of(const config::Config& config);

}  // namespace quad::server
