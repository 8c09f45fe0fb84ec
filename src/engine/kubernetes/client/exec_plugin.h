// engine/kubernetes/client/exec_plugin.h
//
// Runs a credential plugin: a program that prints an ExecCredential. Without a shell, in a process
// group of its own that is killed when the time is up or the caller's Cancel is used. Blocks for as
// long as the program takes. Any thread.

#pragma once

#include <optional>
#include <string>

#include "base/time.h"
#include "engine/kubernetes/client/kubeconfig.h"
#include "net/cancel.h"

namespace quad::kubernetes {

/// What a plugin gives.
struct PluginCredential {
  std::string token;
  std::string certificate_pem;
  std::string key_pem;
  std::optional<WallTime> expires;
};

/// Errors name the plugin, and what it wrote to its standard error: kNotFound if there is no such
/// program, kTimeout, kDenied if it fails or prints something else.
Result<PluginCredential> run_plugin(const ExecPlugin& plugin, const ClusterAccess& cluster,
                                    Millis timeout, const net::Cancel& cancel);

/// What a plugin printed, read. Pure.
Result<PluginCredential> read_plugin_output(const ExecPlugin& plugin, std::string_view output);

}  // namespace quad::kubernetes
