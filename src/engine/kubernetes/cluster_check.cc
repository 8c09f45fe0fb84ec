#include "engine/kubernetes/cluster_check.h"

#include <fmt/format.h>
#include <netdb.h>

#include <map>
#include <memory>
#include <set>

#include "engine/kubernetes/check_view.h"
#include "engine/kubernetes/client/client.h"
#include "engine/kubernetes/permissions.h"
#include "engine/kubernetes/views/attempt_manifest.h"
#include "engine/kubernetes/views/lease_view.h"
#include "engine/kubernetes/views/pod_manifest.h"
#include "engine/kubernetes/views/pod_view.h"
#include "net/cancel.h"

namespace quad::kubernetes {

namespace {

/// Of an object that is never made; the API server only wants one.
constexpr std::string_view kNoUid = "00000000-0000-0000-0000-000000000000";

class Check {
 public:
  Check(ApiClient& client, const KubernetesOptions& options, const CheckRequest& request)
      : client_(client),
        settings_(options.settings),
        holder_(options.holder),
        request_(request),
        access_(options.access) {}

  std::vector<CheckLine> all() {
    const Result<std::string> version = client_.text("/version");
    add(api_line(version, access_));
    if (!version.ok()) {
      return std::move(lines_);
    }
    if (!permissions()) {
      return std::move(lines_);
    }
    orders();
    add(server_line(settings_.server_url));
    nodes();
    pods();
    dry_runs();
    storage();
    add(image_line("Quad's image", settings_.quad_image, images_, failed_pulls()));
    add(image_line("default image", settings_.default_image, images_, failed_pulls()));
    pull_secrets();
    others();
    return std::move(lines_);
  }

 private:
  void add(CheckLine line) { lines_.push_back(std::move(line)); }
  void add(std::vector<CheckLine> lines) {
    for (CheckLine& line : lines) {
      add(std::move(line));
    }
  }
  void unknown(std::string_view topic, const Error& failure) {
    add({std::string(topic), engine::CheckLevel::kUnknown, failure.message, ""});
  }

  bool permissions() {
    std::vector<Refused> refused;
    std::size_t asked = 0;
    for (const Permission& one : needed_permissions()) {
      if (one.with_taint && !request_.out_of_service_taint) {
        continue;
      }
      Refused lacking{&one, {}};
      for (const std::string_view verb : one.verbs) {
        AccessQuestion question;
        question.verb = verb;
        question.type = one.type;
        question.name_space = one.where == Permission::Where::kJobs ? settings_.namespace_name
                              : one.where == Permission::Where::kNodeLeases
                                  ? std::string(kLeaseNamespace)
                                  : std::string();
        const auto answer = client_.may(question);
        if (!answer.ok()) {
          add({"permissions", engine::CheckLevel::kMissing, answer.error().message,
               "See that the credentials are valid."});
          return false;
        }
        ++asked;
        if (!answer->allowed) {
          lacking.verbs.push_back(verb);
        }
      }
      if (!lacking.verbs.empty()) {
        refused.push_back(std::move(lacking));
      }
    }
    add(permission_lines(refused, asked, settings_.namespace_name));
    return true;
  }

  void orders() {
    if (holder_.empty()) {
      return;  // whoever asks is no server
    }
    const auto there =
        client_.get({kLeases, settings_.namespace_name, server_lease_name(settings_), ""});
    const auto lease = there.ok() ? read_lease(*there) : Result<LeaseView>(there.error());
    if (lease.ok() || lease.error().code == ErrorCode::kNotFound) {
      add(orders_line(lease.ok() ? *lease : LeaseView(), holder_,
                      client_.server().clock().now().wall, settings_.namespace_name));
    } else {
      unknown("orders", lease.error());
    }
  }

  void nodes() {
    const auto seen = client_.list(
        kNodes, "", {},
        [&](const json::object& object) {
          auto view = read_node(object);
          if (!view.ok()) {
            return;
          }
          std::set<std::string>& images = images_[view->name];
          const json::object* status = get_object(object, "status");
          const json::array* list = status ? get_array(*status, "images") : nullptr;
          for (std::size_t i = 0; list != nullptr && i < list->size(); ++i) {
            const json::object* image = (*list)[i].if_object();
            const json::array* names = image ? get_array(*image, "names") : nullptr;
            for (std::size_t j = 0; names != nullptr && j < names->size(); ++j) {
              if (const json::string* name = (*names)[j].if_string(); name != nullptr) {
                images.insert(full_image_name({name->data(), name->size()}));
              }
            }
          }
          nodes_.push_back(std::move(view).value());
        },
        [&] {
          nodes_.clear();
          images_.clear();
        });
    if (!seen.ok()) {
      unknown("nodes", seen.error());
      return;
    }
    add(node_lines(nodes_, settings_));
    add(gpu_lines(nodes_));
  }

  void pods() {
    const auto seen = client_.list(
        kPods, "", {},
        [&](const json::object& pod) {
          note_program(pod, programs_);
          if (const auto view = read_pod(pod, settings_.server);
              view.ok() && view->rank && view->namespace_name != settings_.namespace_name) {
            ++elsewhere_[view->namespace_name];
          }
        },
        [&] {
          programs_ = {};
          elsewhere_.clear();
        });
    if (!seen.ok()) {
      unknown("metrics", seen.error());
    }
    add(namespace_lines(settings_.namespace_name,
                        request_.in_cluster ? access_.name_space : std::string(), elsewhere_));
  }

  [[nodiscard]] const NodeView* a_gpu_node() const {
    for (const NodeView& node : nodes_) {
      if (node.allocatable.gpus > 0) {
        return &node;
      }
    }
    return nullptr;
  }

  PodRequest a_pod() const {
    PodRequest pod;
    pod.key = {JobId(0), Epoch(0), Rank(0)};
    pod.job_name = "check";
    pod.owner = "quad";
    pod.node = NodeId(nodes_.empty() ? "none" : nodes_.front().name);
    pod.amount = {100, 100'000'000, 0};
    pod.image = settings_.default_image.empty() ? settings_.quad_image : settings_.default_image;
    return pod;
  }

  void dry_run(std::string_view kind, const PodRequest& request) {
    const auto manifest = pod_manifest(request, settings_, kNoUid);
    if (!manifest.ok()) {
      add(admission_line(kind, manifest.error(), settings_.namespace_name));
      return;
    }
    WriteOptions nothing_kept;
    nothing_kept.dry_run = true;
    const auto made = client_.create(kPods, settings_.namespace_name, *manifest, nothing_kept);
    add(admission_line(kind, made.ok() ? Status() : Status(made.error()),
                       settings_.namespace_name));
  }

  void dry_runs() {
    dry_run("pods", a_pod());
    if (const NodeView* node = a_gpu_node(); node != nullptr) {
      PodRequest with_gpu = a_pod();
      with_gpu.node = NodeId(node->name);
      with_gpu.amount.gpus = 1;
      with_gpu.gpu_resource = node->gpu_resource;
      dry_run("GPU pods", with_gpu);
    }
    if (settings_.rdma) {
      PodRequest best = a_pod();
      best.best_network = true;
      dry_run("RDMA pods", best);
    }
    Result<bool> multus = has_api("k8s.cni.cncf.io", "v1");
    add(rdma_lines(nodes_, settings_.rdma, multus));
  }

  Result<bool> has_api(std::string_view group, std::string_view version) {
    const auto served = client_.served(group, version);
    if (served.ok()) {
      return true;
    }
    if (served.error().code == ErrorCode::kNotFound) {
      return false;
    }
    return served.error();
  }

  void storage() {
    Result<json::object> claim = json::object();
    if (settings_.hot && settings_.hot->kind == HotTier::Kind::kClaim) {
      // The server may not read claims. An apply that keeps nothing gives the one that is there,
      // and is refused as incomplete where there is none.
      WriteOptions nothing_kept;
      nothing_kept.dry_run = true;
      const std::string& name = settings_.hot->claim;
      claim = client_.apply({kClaims, settings_.namespace_name, name, ""},
                            {{"apiVersion", "v1"},
                             {"kind", "PersistentVolumeClaim"},
                             {"metadata", json::object{{"name", name}}}},
                            nothing_kept);
    }
    add(hot_tier_line(settings_.hot, claim, settings_.namespace_name));
    std::vector<json::object> classes;
    const auto seen = client_.list(
        kStorageClasses, "", {}, [&](json::object one) { classes.push_back(std::move(one)); },
        [&] { classes.clear(); });
    add(storage_lines(seen.ok() ? Result<std::vector<json::object>>(std::move(classes))
                                : Result<std::vector<json::object>>(seen.error()),
                      request_.storage_classes, request_.default_storage_class));
  }

  const std::vector<EventView>& failed_pulls() {
    if (!failures_) {
      failures_.emplace();
      (void)client_.list(
          kEvents, settings_.namespace_name, {"", "reason=Failed"},
          [&](const json::object& object) {
            if (auto event = read_event(object);
                event.ok() && event->message.find("pull") != std::string::npos) {
              failures_->push_back(std::move(event).value());
            }
          },
          [&] { failures_->clear(); });
    }
    return *failures_;
  }

  void pull_secrets() {
    for (const std::string& name : settings_.image_pull_secrets) {
      const auto secret = client_.get({kSecrets, settings_.namespace_name, name, ""});
      if (secret.ok() && get_string(*secret, "type").starts_with("kubernetes.io/dockerc")) {
        add({"images", engine::CheckLevel::kOk, fmt::format("Secret '{}' logs in", name), ""});
      } else if (secret.ok() || secret.error().code == ErrorCode::kNotFound) {
        add({"images", engine::CheckLevel::kMissing,
             secret.ok() ? fmt::format("Secret '{}' is no login to a registry", name)
                         : fmt::format("there is no Secret '{}' in namespace '{}', which "
                                       "image_pull_secrets names",
                                       name, settings_.namespace_name),
             fmt::format("kubectl -n {} create secret docker-registry {} …",
                         settings_.namespace_name, name)});
      } else {
        unknown("images", secret.error());
      }
    }
  }

  void others() {
    if (const auto metrics = has_api("metrics.k8s.io", "v1beta1"); metrics.ok()) {
      programs_.metrics_server = *metrics;
    }
    add(metrics_lines(programs_, a_gpu_node() != nullptr));
    std::optional<bool> resolved;
    if (request_.in_cluster) {
      addrinfo* found = nullptr;
      resolved = ::getaddrinfo("kubernetes.default.svc", nullptr, nullptr, &found) == 0;
      if (found != nullptr) {
        ::freeaddrinfo(found);
      }
    }
    add(dns_line(programs_, resolved));
  }

  ApiClient& client_;
  const PodSettings& settings_;
  const std::string& holder_;
  const CheckRequest& request_;
  const ClusterAccess& access_;
  std::vector<CheckLine> lines_;
  std::vector<NodeView> nodes_;
  std::map<std::string, std::set<std::string>> images_;
  Programs programs_;
  std::map<std::string, int> elsewhere_;
  std::optional<std::vector<EventView>> failures_;
};

}  // namespace

engine::CheckReport check_cluster(const KubernetesOptions& options, const CheckRequest& request,
                                  const Clock& clock) {
  engine::CheckReport report;
  report.engine = options.name;
  report.what =
      request.in_cluster
          ? fmt::format("Kubernetes, this cluster, namespace {}", options.settings.namespace_name)
          : fmt::format("Kubernetes, context {}, namespace {}", options.access.context,
                        options.settings.namespace_name);
  ApiOptions api;
  api.tries = 1;
  api.read_timeout = Millis(10'000);
  auto server = ApiServer::create(options.access, api, clock);
  auto cancel = net::Cancel::create();
  if (!server.ok() || !cancel.ok()) {
    report.lines.push_back({"API server", engine::CheckLevel::kMissing,
                            server.ok() ? cancel.error().message : server.error().message,
                            "Correct the address of the cluster in the kubeconfig."});
    return report;
  }
  ApiClient client(std::move(server).value(), std::move(cancel).value());
  report.lines = Check(client, options, request).all();
  return report;
}

}  // namespace quad::kubernetes
