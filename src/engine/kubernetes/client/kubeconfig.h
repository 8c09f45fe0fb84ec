// engine/kubernetes/client/kubeconfig.h
//
// How a cluster's API server is reached and who asks: read from a kubeconfig, as kubectl reads it,
// or from the service account of the pod that this runs in. Reads files, at start; runs nothing and
// connects to nothing. Any thread.
//
// kubectl's rules: a file that is named must be there; else KUBECONFIG names files of which some
// may be missing, else ~/.kube/config. Of several files the first that has an entry (a context, a
// cluster, a user, the current context) wins. Paths in a file are relative to its folder. With no
// kubeconfig at all, the pod's service account is taken if there is one.
//
// Errors: kInvalid with the file, the line and the key path; kNotFound for a file or an entry that
// is not there; kUnsupported for what Quad cannot do.

#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "net/proxy.h"

namespace quad::kubernetes {

/// A program that prints credentials (client.authentication.k8s.io).
struct ExecPlugin {
  std::string command;  ///< a name to look up in PATH, or an absolute path
  std::vector<std::string> args;
  std::vector<std::pair<std::string, std::string>> env;  ///< over this process's own
  std::string api_version;  ///< client.authentication.k8s.io/v1 or …/v1beta1
  std::string install_hint;
  bool provide_cluster_info = false;
};

/// What a user proves itself with. More than one may be there; all empty for an anonymous one.
struct Login {
  std::string user_name;  ///< of the entry in the kubeconfig, for messages
  std::string certificate_pem;
  std::string key_pem;
  std::string certificate_file;  ///< read anew when the server refuses what was read before
  std::string key_file;
  std::string token;
  std::string token_file;  ///< before `token`; read anew, as what is in it is rotated
  std::string basic_user;
  std::string basic_password;
  std::optional<ExecPlugin> exec;
  /// Impersonate-… headers of `as`, `as-uid` and `as-groups`.
  std::vector<std::pair<std::string, std::string>> impersonation;
};

struct ClusterAccess {
  std::string context;  ///< its name; "in-cluster" for the service account
  std::string server;   ///< a URL
  std::string ca_pem;   ///< the system's authorities if empty
  bool verify = true;
  std::string tls_server_name;
  std::string proxy;  ///< an URL; none if empty
  std::string name_space = "default";
  Login login;
};

struct AccessRequest {
  std::string kubeconfig;   ///< a file; as KUBECONFIG and ~/.kube/config say if empty
  std::string context;      ///< the current one if empty
  bool in_cluster = false;  ///< the service account, whatever kubeconfig there is
  std::string service_account_folder = "/var/run/secrets/kubernetes.io/serviceaccount";
};

Result<ClusterAccess> find_access(const AccessRequest& request,
                                  const net::Environment& environment);

/// The contexts that a find_access() with this request could name, in the order of the files.
Result<std::vector<std::string>> context_names(const AccessRequest& request,
                                               const net::Environment& environment);

}  // namespace quad::kubernetes
