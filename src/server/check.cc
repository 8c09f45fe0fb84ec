#include "server/check.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/kubernetes/cluster_check.h"
#include "engine/local/local_check.h"

namespace quad::server {

namespace {

engine::CheckReport check_one(const config::Config& config, const config::Kubernetes& cluster,
                              const EngineContext& context, const Clock& clock) {
  const auto options = cluster_options(config, cluster, context);
  if (!options.ok()) {
    return {cluster.name,
            "Kubernetes",
            {{"configuration", engine::CheckLevel::kMissing, options.error().message,
              "Correct it and try again; quad config show tells what counts."}}};
  }
  kubernetes::CheckRequest request;
  request.in_cluster = cluster.in_cluster;
  request.out_of_service_taint = cluster.out_of_service_taint;
  request.storage_classes = cluster.storage_classes.allowed;
  request.default_storage_class = cluster.storage_classes.standard;
  if (const std::string& one = request.default_storage_class;
      !one.empty() &&
      std::count(request.storage_classes.begin(), request.storage_classes.end(), one) == 0) {
    request.storage_classes.push_back(one);
  }
  return kubernetes::check_cluster(*options, request, clock);
}

}  // namespace

std::vector<engine::CheckReport> check_engines(const config::Config& config,
                                               const EngineContext& context, const Clock& clock) {
  std::vector<engine::CheckReport> reports;
  if (config.local || config.kubernetes.empty()) {
    engine::LocalOptions local;
    local.hot = context.hot;
    local.nodes = config.local ? config.local->nodes : 0;
    reports.push_back(engine::check_local(local));
  }
  for (const config::Kubernetes& cluster : config.kubernetes) {
    reports.push_back(check_one(config, cluster, context, clock));
  }
  return reports;
}

json::object check_view(const std::vector<engine::CheckReport>& reports) {
  bool ok = true;
  json::array engines;
  for (const engine::CheckReport& report : reports) {
    json::array lines;
    for (const engine::CheckLine& line : report.lines) {
      lines.push_back(json::object{{"topic", line.topic},
                                   {"level", to_string(line.level)},
                                   {"text", line.text},
                                   {"fix", line.fix}});
    }
    ok = ok && is_complete(report);
    engines.push_back(json::object{{"engine", report.engine},
                                   {"what", report.what},
                                   {"ok", is_complete(report)},
                                   {"lines", std::move(lines)}});
  }
  return {{"ok", ok}, {"engines", std::move(engines)}};
}

}  // namespace quad::server
