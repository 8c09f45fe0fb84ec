#include <fmt/format.h>

#include "config/checks.h"
#include "spec/grammar.h"

namespace quad::config {

namespace {

struct Other {
  std::string_view group, key, why;
};
constexpr Other kOthers[] = {
    {"kubernetes", "networking", "Quad reaches ranks through its runner"},
    {"kubernetes", "ports", "ports of a task become a Service"},
    {"kubernetes", "kueue", "Quad itself queues and places gangs"},
    {"kubernetes", "dws", "Quad itself queues and places gangs"},
    {"kubernetes", "quota", "limits stand under jobs.limits"},
    {"kubernetes", "remote_identity", "pods get no service account"},
    {"kubernetes", "allowed_nodes", "write node_selector"},
    {"kubernetes", "high_availability", "jobs outlive the server"},
    {"kubernetes", "set_pod_resource_limits", "pods always have limits"},
    {"kubernetes", "post_provision_runcmd", "write it under setup of the task"},
    {"", "allowed_clouds", "name what there is under engines"},
    {"", "api_server", "the client has --server and QUAD_SERVER"},
    {"", "admin_policy", "limits stand under jobs.limits"},
    {"", "workspaces", "there is one workspace"},
    {"", "rbac", "roles belong to tokens: quad token create --role"},
    {"", "logs", "the server keeps all output itself"},
    {"", "data_dir", "give --data-dir or QUAD_DATA_DIR"},
    {"", "token", "tokens are made with quad token create"},
};

}  // namespace

void explain_others(spec::Node& root, spec::Issues& issues) {
  for (const Other& other : kOthers) {
    spec::Node* group = other.group.empty() ? &root : root.find(other.group);
    const spec::Node* found = group == nullptr ? nullptr : group->find(other.key);
    if (found != nullptr) {
      const std::string path = spec::join_path(std::string(other.group), other.key);
      issues.fail(path, found->mark, fmt::format("{} is not for here: {}", path, other.why));
      group->erase(other.key);
    }
  }
}

}  // namespace quad::config
