#include "engine/kubernetes/client/kubeconfig.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/base64.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "spec/yaml.h"

namespace quad::kubernetes {

namespace {

namespace fs = std::filesystem;
using spec::Node;

constexpr std::uint64_t kMostFile = 4U << 20U;

/// One kubeconfig file.
struct Document {
  fs::path path;
  Node root;
};

/// A mapping inside a file, with what a message needs to say where it is.
struct Place {
  const Document* document = nullptr;
  const Node* node = nullptr;
  std::string key;  ///< "users[0].user"

  [[nodiscard]] Place at(std::string_view name) const {
    const Node* inner = node == nullptr ? nullptr : node->find_value(name);
    return {document, inner, key.empty() ? std::string(name) : fmt::format("{}.{}", key, name)};
  }
  [[nodiscard]] bool there() const { return node != nullptr; }
};

Error refuse(const Place& place, std::string_view what, ErrorCode code = ErrorCode::kInvalid) {
  const int line = place.node == nullptr ? 0 : place.node->mark.line;
  auto where = place.document->path.string();
  if (line > 0) {
    where += fmt::format(":{}", line);
  }
  return error(code, fmt::format("{}: {} {}.", where, place.key, what), where);
}

Result<std::string> text_at(const Place& mapping, std::string_view name) {
  const auto place = mapping.at(name);
  if (!place.there()) {
    return std::string();
  }
  if (!place.node->is_string()) {
    return refuse(
        place, fmt::format("must be a text, not {}; put it in quotes", spec::shown(*place.node)));
  }
  return place.node->text;
}

Result<bool> flag_at(const Place& mapping, std::string_view name) {
  const auto place = mapping.at(name);
  if (place.there() && !place.node->is_bool()) {
    return refuse(place, fmt::format("must be true or false, not {}", spec::shown(*place.node)));
  }
  return place.there() && place.node->boolean;
}

Result<std::vector<std::string>> texts_at(const Place& mapping, std::string_view name) {
  std::vector<std::string> texts;
  const auto place = mapping.at(name);
  if (!place.there()) {
    return texts;
  }
  if (!place.node->is_sequence()) {
    return refuse(place, "must be a list of texts");
  }
  for (const auto& item : place.node->items) {
    if (!item.is_string()) {
      return refuse({place.document, &item, place.key},
                    fmt::format("must be a list of texts; {} is none", spec::shown(item)));
    }
    texts.push_back(item.text);
  }
  return texts;
}

/// The path that the text at `name` means; empty if there is none.
Result<std::string> path_at(const Place& mapping, std::string_view name) {
  QUAD_ASSIGN(const auto text, text_at(mapping, name));
  if (text.empty() || text.front() == '/') {
    return text;
  }
  return (mapping.document->path.parent_path() / text).lexically_normal().string();
}

/// The bytes that the base64 text at `name` stands for.
Result<std::string> data_at(const Place& mapping, std::string_view name) {
  QUAD_ASSIGN(const auto text, text_at(mapping, name));
  auto bytes = base64_decode(text);
  if (!bytes.has_value()) {
    return refuse(mapping.at(name), "is not base64");
  }
  return std::move(*bytes);
}

Result<std::string> file_at(const Place& place, const std::string& path) {
  auto content = read_file(path, kMostFile);
  if (!content.ok()) {
    return refuse(place,
                  fmt::format("names a file that cannot be read: {}", content.error().message),
                  content.error().code);
  }
  return content;
}

/// As the YAML reader does not take JSON that is indented with tabs.
Node node_of(const json::value& value) {
  switch (value.kind()) {
    case json::kind::bool_:
      return Node::make_bool(value.get_bool());
    case json::kind::string:
      return Node::make_string(std::string(value.get_string()));
    case json::kind::object: {
      auto node = Node::make_mapping();
      for (const auto& member : value.get_object()) {
        node.set(std::string_view(member.key()), node_of(member.value()));
      }
      return node;
    }
    case json::kind::array: {
      auto node = Node::make_sequence();
      for (const auto& item : value.get_array()) {
        node.items.push_back(node_of(item));
      }
      return node;
    }
    default:
      return value.is_int64() ? Node::make_int(value.get_int64()) : Node::null_at({});
  }
}

Result<Document> parse_document(const fs::path& path, std::string_view text) {
  Document document{path, Node::null_at({})};
  auto stream = spec::read_yaml(text);
  if (stream.error.has_value()) {
    if (trim(text).starts_with('{')) {
      if (const auto value = parse_json(text); value.ok()) {
        document.root = node_of(*value);
        return document;
      }
    }
    const auto where = fmt::format("{}:{}", path.string(), stream.error->line);
    return error(ErrorCode::kInvalid,
                 fmt::format("{}: the kubeconfig cannot be read: {}", where, stream.error->message),
                 where);
  }
  if (!stream.documents.empty()) {
    document.root = std::move(stream.documents.front());
  }
  if (!document.root.is_null() && !document.root.is_mapping()) {
    return error(ErrorCode::kInvalid,
                 fmt::format("{}: this is no kubeconfig: its top must be a mapping with clusters, "
                             "users and contexts.",
                             path.string()),
                 path.string());
  }
  return document;
}

/// All files that there are, and the words that name them in a message.
struct Files {
  std::vector<Document> documents;
  std::string named;
};

Result<Files> read_files(const AccessRequest& request, const net::Environment& environment) {
  Files files;
  std::vector<fs::path> paths;
  const bool required = !request.kubeconfig.empty();
  if (required) {
    paths.emplace_back(request.kubeconfig);
    files.named = request.kubeconfig;
  } else if (const auto list = environment("KUBECONFIG"); list.has_value() && !list->empty()) {
    for (const auto part : split(*list, ':')) {
      if (!part.empty() && std::find(paths.begin(), paths.end(), part) == paths.end()) {
        paths.emplace_back(part);
      }
    }
    files.named = "KUBECONFIG (" + *list + ")";
  } else if (const auto home = environment("HOME"); home.has_value() && !home->empty()) {
    paths.push_back(fs::path(*home) / ".kube" / "config");
    files.named = paths.back().string();
  }
  for (const auto& path : paths) {
    const auto content = read_file(path, kMostFile);
    if (!content.ok()) {
      if (content.error().code == ErrorCode::kNotFound && !required) {
        continue;
      }
      return error(content.error().code,
                   fmt::format("The kubeconfig cannot be read: {}", content.error().message),
                   path.string());
    }
    QUAD_ASSIGN(auto document, parse_document(fs::absolute(path), *content));
    files.documents.push_back(std::move(document));
  }
  return files;
}

/// The entry of that name in the list `list` of the first file that has one; the place of its
/// `inner` mapping. Not there() if no file has it.
Result<Place> find_entry(const Files& files, std::string_view list, std::string_view inner,
                         std::string_view name) {
  for (const auto& document : files.documents) {
    const auto place = Place{&document, &document.root, ""}.at(list);
    if (!place.there()) {
      continue;
    }
    if (!place.node->is_sequence()) {
      return refuse(place, "must be a list");
    }
    for (std::size_t i = 0; i < place.node->items.size(); ++i) {
      const Place entry{&document, &place.node->items[i], fmt::format("{}[{}]", list, i)};
      QUAD_ASSIGN(const auto entry_name, text_at(entry, "name"));
      if (entry_name == name) {
        auto found = entry.at(inner);
        if (!found.there()) {
          found.node = entry.node;  // an entry without content, such as an anonymous user
        }
        if (!found.node->is_mapping()) {
          return refuse(found, "must be a mapping");
        }
        return found;
      }
    }
  }
  return Place{};
}

Result<ExecPlugin> read_exec(const Place& place) {
  ExecPlugin plugin;
  QUAD_ASSIGN(plugin.command, text_at(place, "command"));
  if (plugin.command.empty()) {
    return refuse(place, "needs a command");
  }
  if (plugin.command.find('/') != std::string::npos) {
    QUAD_ASSIGN(plugin.command, path_at(place, "command"));
  }
  QUAD_ASSIGN(plugin.args, texts_at(place, "args"));
  QUAD_ASSIGN(plugin.api_version, text_at(place, "apiVersion"));
  constexpr std::string_view kGroup = "client.authentication.k8s.io/";
  if (plugin.api_version != fmt::format("{}v1", kGroup) &&
      plugin.api_version != fmt::format("{}v1beta1", kGroup)) {
    const auto version = place.at("apiVersion");
    return refuse(version.there() ? version : place,
                  fmt::format("must have apiVersion {0}v1 or {0}v1beta1", kGroup));
  }
  QUAD_ASSIGN(plugin.install_hint, text_at(place, "installHint"));
  QUAD_ASSIGN(plugin.provide_cluster_info, flag_at(place, "provideClusterInfo"));
  QUAD_ASSIGN(const auto mode, text_at(place, "interactiveMode"));
  if (mode == "Always") {
    return refuse(place.at("interactiveMode"),
                  "is Always, but nobody is there to answer the plugin's questions",
                  ErrorCode::kUnsupported);
  }
  const auto env = place.at("env");
  if (env.there() && !env.node->is_sequence()) {
    return refuse(env, "must be a list of name and value");
  }
  for (std::size_t i = 0; env.there() && i < env.node->items.size(); ++i) {
    const Place entry{env.document, &env.node->items[i], fmt::format("{}[{}]", env.key, i)};
    QUAD_ASSIGN(auto name, text_at(entry, "name"));
    QUAD_ASSIGN(auto value, text_at(entry, "value"));
    if (name.empty() || name.find('=') != std::string::npos) {
      return refuse(entry, "needs a name, without '='");
    }
    plugin.env.emplace_back(std::move(name), std::move(value));
  }
  return plugin;
}

Status read_impersonation(const Place& user, Login& login) {
  QUAD_ASSIGN(auto as, text_at(user, "as"));
  QUAD_ASSIGN(auto uid, text_at(user, "as-uid"));
  QUAD_ASSIGN(auto groups, texts_at(user, "as-groups"));
  const auto add = [&](std::string_view header, std::string value) {
    if (!value.empty()) {
      login.impersonation.emplace_back(header, std::move(value));
    }
  };
  add("Impersonate-User", std::move(as));
  add("Impersonate-Uid", std::move(uid));
  for (auto& group : groups) {
    add("Impersonate-Group", std::move(group));
  }
  if (user.at("as-user-extra").there()) {
    return refuse(user.at("as-user-extra"), "is not supported; leave it out",
                  ErrorCode::kUnsupported);
  }
  return {};
}

Result<Login> read_login(const Place& user) {
  Login login;
  QUAD_ASSIGN(login.certificate_pem, data_at(user, "client-certificate-data"));
  QUAD_ASSIGN(login.key_pem, data_at(user, "client-key-data"));
  if (login.certificate_pem.empty()) {
    QUAD_ASSIGN(login.certificate_file, path_at(user, "client-certificate"));
  }
  if (login.key_pem.empty()) {
    QUAD_ASSIGN(login.key_file, path_at(user, "client-key"));
  }
  const bool certificate = !login.certificate_pem.empty() || !login.certificate_file.empty();
  const bool key = !login.key_pem.empty() || !login.key_file.empty();
  if (certificate != key) {
    return refuse(user, certificate ? "has a client certificate, but no client-key[-data]"
                                    : "has a client key, but no client-certificate[-data]");
  }
  QUAD_ASSIGN(login.token, text_at(user, "token"));
  QUAD_ASSIGN(login.token_file, path_at(user, "tokenFile"));
  QUAD_ASSIGN(login.basic_user, text_at(user, "username"));
  QUAD_ASSIGN(login.basic_password, text_at(user, "password"));
  QUAD_TRY(read_impersonation(user, login));
  if (const auto exec = user.at("exec"); exec.there()) {
    QUAD_ASSIGN(login.exec, read_exec(exec));
  }
  if (const auto provider = user.at("auth-provider"); provider.there()) {
    return refuse(provider,
                  "is no longer part of Kubernetes; use an exec plugin, as the cluster's "
                  "provider describes",
                  ErrorCode::kUnsupported);
  }
  return login;
}

Status read_cluster(const Place& cluster, const net::Environment& environment,
                    ClusterAccess& access) {
  QUAD_ASSIGN(access.server, text_at(cluster, "server"));
  if (access.server.empty()) {
    return refuse(cluster, "has no server; write the API server's URL there");
  }
  if (access.server.find("://") == std::string::npos) {
    access.server.insert(0, "https://");  // as kubectl takes a bare host
  }
  QUAD_ASSIGN(const bool insecure, flag_at(cluster, "insecure-skip-tls-verify"));
  access.verify = !insecure;
  QUAD_ASSIGN(access.ca_pem, data_at(cluster, "certificate-authority-data"));
  if (access.ca_pem.empty()) {
    QUAD_ASSIGN(const auto path, path_at(cluster, "certificate-authority"));
    if (!path.empty()) {
      QUAD_ASSIGN(access.ca_pem, file_at(cluster.at("certificate-authority"), path));
    }
  }
  if (insecure && !access.ca_pem.empty()) {
    return refuse(cluster.at("insecure-skip-tls-verify"),
                  "is true although there is a certificate authority; take one of them out");
  }
  QUAD_ASSIGN(access.tls_server_name, text_at(cluster, "tls-server-name"));
  QUAD_ASSIGN(access.proxy, text_at(cluster, "proxy-url"));
  if (!access.proxy.empty()) {
    if (const auto proxy = net::parse_proxy(access.proxy); !proxy.ok()) {
      return refuse(cluster.at("proxy-url"), "is of no use: " + proxy.error().message,
                    proxy.error().code);
    }
  } else {
    access.proxy = net::proxy_from_environment(access.server, environment);
  }
  return {};
}

Result<std::vector<std::string>> names_in(const Files& files) {
  std::vector<std::string> names;
  for (const auto& document : files.documents) {
    const auto place = Place{&document, &document.root, ""}.at("contexts");
    if (!place.there() || !place.node->is_sequence()) {
      continue;
    }
    for (std::size_t i = 0; i < place.node->items.size(); ++i) {
      const Place entry{&document, &place.node->items[i], fmt::format("contexts[{}]", i)};
      QUAD_ASSIGN(auto name, text_at(entry, "name"));
      if (std::find(names.begin(), names.end(), name) == names.end()) {
        names.push_back(std::move(name));
      }
    }
  }
  return names;
}

Result<std::string> current_context(const Files& files) {
  for (const auto& document : files.documents) {
    QUAD_ASSIGN(auto name, text_at({&document, &document.root, ""}, "current-context"));
    if (!name.empty()) {
      return name;
    }
  }
  return std::string();
}

Error no_such_context(const Files& files, const std::string& name) {
  const auto names = names_in(files);
  std::string known = "there are none";
  if (names.ok() && !names->empty()) {
    known = "there are " + join_words(std::vector<std::string_view>(names->begin(), names->end()));
  }
  return error(ErrorCode::kNotFound,
               name.empty() ? fmt::format("{} has no current-context; name one of its contexts "
                                          "({}).",
                                          files.named, known)
                            : fmt::format("{} has no context '{}'; {}.", files.named, name, known),
               files.named);
}

Result<ClusterAccess> access_of(const Files& files, const AccessRequest& request,
                                const net::Environment& environment) {
  ClusterAccess access;
  access.context = request.context;
  if (access.context.empty()) {
    QUAD_ASSIGN(access.context, current_context(files));
  }
  QUAD_ASSIGN(const auto context, find_entry(files, "contexts", "context", access.context));
  if (access.context.empty() || !context.there()) {
    return no_such_context(files, access.context);
  }
  QUAD_ASSIGN(const auto cluster_name, text_at(context, "cluster"));
  QUAD_ASSIGN(const auto user_name, text_at(context, "user"));
  QUAD_ASSIGN(const auto name_space, text_at(context, "namespace"));
  if (!name_space.empty()) {
    access.name_space = name_space;
  }
  QUAD_ASSIGN(const auto cluster, find_entry(files, "clusters", "cluster", cluster_name));
  if (!cluster.there()) {
    const auto place = context.at("cluster");
    return refuse(place.there() ? place : context,
                  fmt::format("names the cluster '{}', which is in no file", cluster_name),
                  ErrorCode::kNotFound);
  }
  QUAD_TRY(read_cluster(cluster, environment, access));
  if (!user_name.empty()) {
    QUAD_ASSIGN(const auto user, find_entry(files, "users", "user", user_name));
    if (!user.there()) {
      return refuse(context.at("user"),
                    fmt::format("names the user '{}', which is in no file", user_name),
                    ErrorCode::kNotFound);
    }
    QUAD_ASSIGN(access.login, read_login(user));
  }
  access.login.user_name = user_name;
  return access;
}

std::optional<std::string> set_variable(const net::Environment& environment,
                                        std::string_view name) {
  auto value = environment(name);
  return value.has_value() && !value->empty() ? value : std::nullopt;
}

Result<ClusterAccess> service_account(const AccessRequest& request,
                                      const net::Environment& environment) {
  const auto host = set_variable(environment, "KUBERNETES_SERVICE_HOST");
  const auto port = set_variable(environment, "KUBERNETES_SERVICE_PORT");
  if (!host.has_value() || !port.has_value()) {
    return error(ErrorCode::kNotFound,
                 "This does not run in a pod of Kubernetes: KUBERNETES_SERVICE_HOST and "
                 "KUBERNETES_SERVICE_PORT are not set; name a kubeconfig.");
  }
  const fs::path folder(request.service_account_folder);
  const auto read = [&](const char* name) { return read_file(folder / name, kMostFile); };
  const auto refused = [&](const Error& why) {
    return error(why.code,
                 fmt::format("The pod's service account cannot be used: {}; is "
                             "automountServiceAccountToken off?",
                             why.message),
                 folder.string());
  };
  ClusterAccess access;
  access.context = "in-cluster";
  access.login.user_name = "the service account";
  const bool six = host->find(':') != std::string::npos;
  access.server = fmt::format("https://{}:{}", six ? "[" + *host + "]" : *host, *port);
  access.proxy = net::proxy_from_environment(access.server, environment);
  auto ca = read("ca.crt");
  if (!ca.ok()) {
    return refused(ca.error());
  }
  access.ca_pem = std::move(ca).value();
  if (const auto token = read("token"); !token.ok()) {
    return refused(token.error());
  }
  access.login.token_file = (folder / "token").string();
  if (const auto name_space = read("namespace"); name_space.ok() && !trim(*name_space).empty()) {
    access.name_space = std::string(trim(*name_space));
  }
  return access;
}

}  // namespace

Result<ClusterAccess> find_access(const AccessRequest& request,
                                  const net::Environment& environment) {
  if (request.in_cluster) {
    return service_account(request, environment);
  }
  QUAD_ASSIGN(const auto files, read_files(request, environment));
  if (!files.documents.empty()) {
    return access_of(files, request, environment);
  }
  if (request.context.empty() && set_variable(environment, "KUBERNETES_SERVICE_HOST")) {
    return service_account(request, environment);
  }
  return error(ErrorCode::kNotFound,
               fmt::format("There is no kubeconfig: {} is not there, and this does not run in a "
                           "pod; name one.",
                           files.named.empty() ? "~/.kube/config" : files.named));
}

Result<std::vector<std::string>> context_names(const AccessRequest& request,
                                               const net::Environment& environment) {
  QUAD_ASSIGN(const auto files, read_files(request, environment));
  return names_in(files);
}

}  // namespace quad::kubernetes
