// server/unhonoured.h
//
// What a task says that Quad understands but cannot do on this engine: refused where the job could
// not work without it, a warning where it can. Nothing that a task file may say is passed over in
// silence; unhonoured_test.cc holds every key of the grammar to that. Pure; any thread.

#pragma once

#include <string>
#include <vector>

#include "spec/parse.h"

namespace quad::server {

/// Gathers what is wrong, each with the place of its key in the text. A warning that several
/// alternatives of resources give is given once.
class Findings {
 public:
  /// What is found from now on is about the task or the alternative with these marks, which must
  /// outlive the finding.
  void look_at(const spec::Marks& marks) { marks_ = &marks; }

  void refuse(std::string key, std::string message, std::string hint = {});
  void warn(std::string key, std::string message);
  // The same where the place is known better than by the key.
  void refuse_at(spec::Mark mark, std::string key, std::string message, std::string hint = {});
  void warn_at(spec::Mark mark, std::string key, std::string message);

  /// Whether a further warning would be left out: more than some help nobody.
  [[nodiscard]] bool full() const { return warnings.size() >= spec::Issues::kMostKept; }

  std::vector<spec::Diagnostic> errors, warnings;
  /// An engine of this server runs ranks in containers, so what is about those has its effect.
  bool containers = false;
  bool cluster = false;  ///< the task is for a cluster, which may stop by itself

 private:
  const spec::Marks* marks_ = nullptr;
};

/// All of the task but its resources.
void check_task(const spec::Task& task, Findings& findings);
/// One alternative of the resources, but for what the nodes have (GPUs, CPUs, memory).
void check_resources(const spec::Resources& resources, Findings& findings);
/// Whether an alternative asks for a Kubernetes cluster.
bool is_kubernetes(const spec::Resources& resources);
/// Whether an alternative asks for another place than this machine or a Kubernetes cluster.
bool is_elsewhere(const spec::Resources& resources);
/// The key that says where: "resources.infra", or what it was called before.
std::string place_key(const spec::Resources& resources);

}  // namespace quad::server
