// engine/kubernetes/views/permitted.h
//
// What tasks may name in a cluster, in whatever part of a task they do: claims, folders of nodes,
// classes, labels, annotations. One rule for each, so that no spelling goes round it. Pure.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "engine/kubernetes/views/pod_request.h"

namespace quad::kubernetes {

/// kDenied: "WHERE is not open to jobs here: WHY."
Error not_open(const std::string& where, std::string_view why);

/// Whether the key path `inner` is `outer`, or below it.
bool is_within(std::string_view inner, std::string_view outer);
/// Whether the administrator has opened a key path of pod_config to tasks.
bool is_permitted(std::string_view key_path, const PodSettings& settings);

/// Whether a claim, a Secret or a ConfigMap of this name is Quad's own.
bool is_own(std::string_view name, const PodSettings& settings);

/// Labels and annotations that a task asks for, by any way: kDenied with a sentence for those by
/// which others know their pods, or which others act upon.
Status check_task_labels(const json::object& labels, const PodSettings& settings,
                         const std::string& path);
/// The same for labels that stand elsewhere in a task; kInvalid for those that are none.
Status check_labels(const std::vector<NamedText>& labels, const PodSettings& settings,
                    const std::string& key);
Status check_task_annotations(const json::object& annotations, const PodSettings& settings,
                              const std::string& path);

/// kDenied with a sentence if the claim is one of Quad's own.
Status check_claim(std::string_view name, const PodSettings& settings, const std::string& path);

/// Whether tasks may have this folder of the nodes: kDenied with a sentence if not.
Status check_host_path(std::string_view folder, const PodSettings& settings,
                       const std::string& path);

/// Whether tasks may have this PriorityClass or StorageClass: kDenied with a sentence if not.
/// `what` is its kind, `key` names it in the task.
Status check_choice(const Choice& choice, std::string_view name, std::string_view what,
                    const std::string& key);
/// The same for a PriorityClass: Kubernetes' own, for what a cluster cannot be without, only where
/// they are allowed by name.
Status check_priority_class(const PodSettings& settings, std::string_view name,
                            const std::string& key);

/// Whether `path` is one of `allowed`, or lies below one. Paths that climb ("..") are never.
bool is_below(std::string_view path, const std::vector<std::string>& allowed);

}  // namespace quad::kubernetes
