#include "spec/task.h"

namespace quad::spec {

std::optional<std::string> Resources::infra() const {
  const auto or_any = [](const std::optional<std::string>& part) {
    return part && !part->empty() ? *part : std::string("*");
  };
  std::string context = or_any(region);
  // SSH node pools are Kubernetes contexts whose names begin with this.
  if (context.starts_with("ssh-")) {
    context.erase(0, 4);
  }
  std::vector<std::string> parts = {or_any(cloud), context, or_any(zone)};
  while (!parts.empty() && (parts.back() == "*")) {
    parts.pop_back();
  }
  if (parts.empty()) {
    return std::nullopt;
  }
  std::string out = parts[0];
  for (std::size_t i = 1; i < parts.size(); ++i) {
    out += "/" + parts[i];
  }
  return out;
}

std::optional<std::string> Resources::container_image() const {
  if (docker_image) {
    return docker_image;
  }
  if (images.size() == 1 && (!images[0].region || images[0].region == region) &&
      images[0].image.starts_with("docker:")) {
    return images[0].image.substr(7);
  }
  return std::nullopt;
}

int Task::priority() const {
  for (const Resources& alternative : resources) {
    if (alternative.priority) {
      return *alternative.priority;
    }
  }
  return 0;
}

JobRecovery Task::job_recovery() const {
  if (!resources.empty() && resources[0].job_recovery) {
    return *resources[0].job_recovery;
  }
  return {};
}

}  // namespace quad::spec
