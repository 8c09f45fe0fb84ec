#include "engine/kubernetes/client/client.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "net/message.h"

namespace quad::kubernetes {

namespace {

constexpr std::uint64_t kMostBody = 64U << 20U;
constexpr Millis kLongestPause{10'000};
constexpr int kMostRestarts = 5;
/// Small enough that a page of pods is about a megabyte.
constexpr int kPage = 100;

/// Retry-After in seconds; its other form, a date, is not in use here.
Millis retry_after(const net::ClientResponse& response) {
  const auto text = response.header("retry-after").value_or(std::string_view());
  std::int64_t seconds = 0;
  std::from_chars(text.data(), text.data() + text.size(), seconds);
  return Millis(1000 * std::clamp<std::int64_t>(seconds, 0, 3600));
}

std::string query_of(const std::vector<std::pair<std::string_view, std::string>>& values) {
  std::string query;
  for (const auto& [name, value] : values) {
    if (!value.empty()) {
      query += query.empty() ? '?' : '&';
      query += name;
      query += '=';
      query += net::percent_encode(value);
    }
  }
  return query;
}

std::string write_query(const WriteOptions& options, const std::string& manager) {
  return query_of({{"fieldManager", manager}, {"dryRun", options.dry_run ? "All" : ""}});
}

std::string name_of(const json::object& object) {
  const auto* metadata = get_object(object, "metadata");
  return metadata == nullptr ? std::string() : std::string(get_string(*metadata, "name"));
}

std::string_view content_type_of(PatchType type) {
  switch (type) {
    case PatchType::kMerge:
      return "application/merge-patch+json";
    case PatchType::kStrategic:
      return "application/strategic-merge-patch+json";
    case PatchType::kJson:
      return "application/json-patch+json";
  }
  return "application/json";
}

/// What went wrong on the way. A silent server is as unavailable as one that is not there.
ApiError no_answer(Error why, std::string_view what) {
  why.message = fmt::format("Cannot {}: {}", what, why.message);
  if (why.code == ErrorCode::kTimeout) {
    why.code = ErrorCode::kUnavailable;
  }
  return {std::move(why), {}};
}

/// Whether the same request may do better in a moment.
bool passing(const ApiFailure& failure, bool create) {
  switch (failure.http) {
    case 429:
    case 500:
    case 502:
    case 503:
    case 504:
      return true;
    case 409:
      // A new object cannot conflict by itself: its quota's count was written by somebody else.
      return create && failure.reason != "AlreadyExists";
    default:
      return false;
  }
}

}  // namespace

ApiServer::ApiServer(ClusterAccess access, ApiOptions options, const Clock& clock)
    : access_(std::move(access)),
      options_(std::move(options)),
      clock_(clock),
      credentials_(access_, clock),
      write_limit_(options_.writes_per_second, options_.write_burst) {}

Result<std::shared_ptr<ApiServer>> ApiServer::create(ClusterAccess access, ApiOptions options,
                                                     const Clock& clock) {
  net::ClientOptions probe;
  probe.url = access.server;
  QUAD_TRY(net::HttpClient::create(std::move(probe)));
  return std::shared_ptr<ApiServer>(new ApiServer(std::move(access), std::move(options), clock));
}

struct ApiClient::Call {
  std::string_view method = "GET";
  std::string target;
  std::string what;  ///< for messages: "create pods 'train/a'"
  std::string body;
  std::string_view content_type = "application/json";
  bool write = false;      ///< counts against the write rate
  bool create = false;     ///< a conflict is a passing trouble
  bool repeatable = true;  ///< once it may have arrived
};

ApiClient::ApiClient(std::shared_ptr<ApiServer> server, std::shared_ptr<net::Cancel> cancel)
    : ApiClient(server, std::move(cancel), server->options()) {}

ApiClient::ApiClient(std::shared_ptr<ApiServer> server, std::shared_ptr<net::Cancel> cancel,
                     ApiOptions options)
    : server_(std::move(server)),
      cancel_(std::move(cancel)),
      options_(std::move(options)),
      backoff_(options_.first_pause, Millis(5'000), random_seed()) {}

Error ApiClient::fail(ApiError failed) {
  failure_ = std::move(failed.failure);
  return std::move(failed.error);
}

Error ApiClient::give_up() {
  failure_ = {};
  return error(ErrorCode::kUnavailable,
               "The request to the Kubernetes API server was given up, as asked.");
}

Result<net::HttpClient*> ApiClient::connection(std::uint64_t& generation, net::Headers& headers) {
  QUAD_ASSIGN(const auto credential, server_->credentials().get(*cancel_));
  generation = credential->generation;
  const auto& access = server_->access();
  if (!credential->authorization.empty()) {
    headers.emplace_back("Authorization", credential->authorization);
  }
  headers.insert(headers.end(), access.login.impersonation.begin(),
                 access.login.impersonation.end());
  if (!http_.has_value() || certificate_ != credential->certificate_pem) {
    net::ClientOptions options;
    options.url = access.server;
    options.peer = "Kubernetes API server";
    options.ca_pem = access.ca_pem;
    options.verify_certificate = access.verify;
    options.tls_server_name = access.tls_server_name;
    options.proxy = access.proxy;
    options.certificate_pem = credential->certificate_pem;
    options.key_pem = credential->key_pem;
    options.cancel = cancel_;
    options.connect_timeout = options_.connect_timeout;
    options.read_timeout = options_.read_timeout;
    options.body_limit = kMostBody;
    options.headers = {{"User-Agent", "quad/" QUAD_VERSION}, {"Accept", "application/json"}};
    QUAD_ASSIGN(http_, net::HttpClient::create(std::move(options)));
    certificate_ = credential->certificate_pem;
  }
  return &*http_;
}

Result<std::string> ApiClient::send(const Call& call, bool* repeated) {
  bool renewed = false;
  backoff_.reset();
  for (int attempt = 1;; ++attempt) {
    if (call.write && !cancel_->sleep(server_->write_limit().take(server_->clock().now().mono))) {
      return give_up();
    }
    std::uint64_t generation = 0;
    net::Headers headers{{"Content-Type", std::string(call.content_type)}};
    auto http = connection(generation, headers);
    if (!http.ok()) {
      return fail({http.error(), {}});
    }
    auto response = (*http)->request(call.method, call.target, call.body, headers);
    if (cancel_->cancelled()) {
      return give_up();
    }
    ApiError failed;
    bool again = false;
    if (response.ok()) {
      if (response->ok()) {
        return std::move(response->body);
      }
      failed = error_of_body(response->status, response->body, call.what);
      failed.failure.retry_after = std::max(failed.failure.retry_after, retry_after(*response));
      if (response->status == 401 && !renewed) {
        renewed = true;
        server_->credentials().refused(generation);
        --attempt;
        continue;
      }
      // These say that nothing was done; of the other troubles that cannot be known.
      const bool refused = response->status == 429 || response->status == 503;
      again = passing(failed.failure, call.create) && (refused || call.repeatable);
      if (again && !refused && repeated != nullptr && response->status != 409) {
        *repeated = true;
      }
    } else {
      failed = no_answer(response.error(), call.what);
      again = call.repeatable && failed.error.code == ErrorCode::kUnavailable;
      if (again && repeated != nullptr) {
        *repeated = true;
      }
    }
    if (!again || attempt >= options_.tries) {
      return fail(std::move(failed));
    }
    // The pause of the back-off comes on top of what was asked for, so that not all come at once.
    const auto pause = std::min(failed.failure.retry_after, kLongestPause) + backoff_.next();
    if (!cancel_->sleep(pause)) {
      return give_up();
    }
  }
}

Result<json::object> ApiClient::send_object(const Call& call, bool* repeated) {
  QUAD_ASSIGN(const auto body, send(call, repeated));
  auto object = parse_json_object(body, 128);
  if (!object.ok()) {
    return fail({error(ErrorCode::kUnavailable,
                       fmt::format("Cannot {}: the Kubernetes API server's answer is not JSON: {}",
                                   call.what, object.error().message)),
                 {}});
  }
  return object;
}

Result<json::object> ApiClient::get(const ObjectRef& ref) {
  Call call;
  call.target = object_path(ref);
  call.what = "get " + describe(ref);
  return send_object(call);
}

Result<std::string> ApiClient::list(const ResourceType& type, std::string_view name_space,
                                    const Selection& selection, const ItemSink& item,
                                    const std::function<void()>& restart) {
  const auto path = collection_path(type, name_space);
  std::string continuation;
  int restarts = 0;
  while (true) {
    Call call;
    call.target = path + query_of({{"labelSelector", selection.labels},
                                   {"fieldSelector", selection.fields},
                                   {"limit", std::to_string(kPage)},
                                   {"continue", continuation}});
    call.what = fmt::format("list {}", type.plural);
    auto page = send_object(call);
    if (!page.ok()) {
      if (failure_.http != 410 || continuation.empty() || ++restarts > kMostRestarts) {
        return page.error();
      }
      continuation.clear();
      restart();
      continue;
    }
    if (auto* items = page->if_contains("items"); items != nullptr && items->is_array()) {
      for (auto& value : items->get_array()) {
        if (value.is_object()) {
          item(std::move(value.get_object()));
        }
      }
    }
    const auto* metadata = get_object(*page, "metadata");
    continuation = metadata == nullptr ? "" : get_string(*metadata, "continue");
    if (continuation.empty()) {
      return metadata == nullptr ? std::string()
                                 : std::string(get_string(*metadata, "resourceVersion"));
    }
  }
}

Result<Created> ApiClient::create(const ResourceType& type, const std::string& name_space,
                                  const json::object& object, const WriteOptions& options) {
  const ObjectRef ref{type, name_space, name_of(object), ""};
  QUAD_CHECK(!ref.name.empty(), "an object is created under a name of its own");
  Call call;
  call.method = "POST";
  call.target = collection_path(type, name_space) + write_query(options, options_.field_manager);
  call.what = "create " + describe(ref);
  call.body = to_text(object);
  call.write = true;
  call.create = true;
  Created created;
  for (int attempt = 1;; ++attempt) {
    auto answer = send_object(call, &created.repeated);
    if (answer.ok()) {
      created.object = std::move(answer).value();
      return created;
    }
    if (failure_.reason != "AlreadyExists") {
      return answer.error();
    }
    auto there = get(ref);
    if (there.ok()) {
      created.object = std::move(there).value();
      created.existed = true;
      return created;
    }
    // Gone between the two questions: the name is free now.
    if (there.error().code != ErrorCode::kNotFound || attempt >= options_.tries) {
      return there.error();
    }
  }
}

Result<json::object> ApiClient::post(const ObjectRef& ref, const json::object& body,
                                     const WriteOptions& options) {
  Call call;
  call.method = "POST";
  call.target = object_path(ref) + query_of({{"dryRun", options.dry_run ? "All" : ""}});
  call.what = "create " + describe(ref);
  call.body = to_text(body);
  call.write = true;
  call.repeatable = false;
  return send_object(call);
}

Result<json::object> ApiClient::apply(const ObjectRef& ref, const json::object& object,
                                      const WriteOptions& options) {
  Call call;
  call.method = "PATCH";
  call.target = object_path(ref) + query_of({{"fieldManager", options_.field_manager},
                                             {"force", options.force ? "true" : ""},
                                             {"dryRun", options.dry_run ? "All" : ""}});
  call.what = "apply " + describe(ref);
  call.body = to_text(object);
  call.content_type = "application/apply-patch+yaml";
  call.write = true;
  return send_object(call);
}

Result<json::object> ApiClient::patch(const ObjectRef& ref, PatchType type,
                                      const json::value& patch, const WriteOptions& options) {
  Call call;
  call.method = "PATCH";
  call.target = object_path(ref) + write_query(options, options_.field_manager);
  call.what = "patch " + describe(ref);
  call.body = to_text(patch);
  call.content_type = content_type_of(type);
  call.write = true;
  call.repeatable = type != PatchType::kJson;
  return send_object(call);
}

Result<Removal> ApiClient::remove(const ObjectRef& ref, const RemoveOptions& options) {
  json::object body{
      {"kind", "DeleteOptions"}, {"apiVersion", "v1"}, {"propagationPolicy", options.propagation}};
  if (options.grace_seconds.has_value()) {
    body["gracePeriodSeconds"] = *options.grace_seconds;
  }
  if (!options.uid.empty()) {
    body["preconditions"] = json::object{{"uid", options.uid}};
  }
  if (options.dry_run) {
    body["dryRun"] = json::array{"All"};
  }
  Call call;
  call.method = "DELETE";
  call.target = object_path(ref);
  call.what = "delete " + describe(ref);
  call.body = to_text(body);
  call.write = true;
  const auto answer = send_object(call);
  if (!answer.ok()) {
    if (failure_.http == 404) {
      return Removal::kGone;
    }
    if (failure_.http == 409 && !options.uid.empty()) {
      return Removal::kReplaced;
    }
    return answer.error();
  }
  // A Status for what is gone, the object itself for what still terminates; an object without
  // grace is sent as it was last.
  const auto* metadata = get_object(*answer, "metadata");
  const bool marked = metadata != nullptr && metadata->contains("deletionTimestamp");
  const bool at_once = marked && get_int(*metadata, "deletionGracePeriodSeconds") == 0 &&
                       get_array(*metadata, "finalizers") == nullptr;
  return get_string(*answer, "kind") != "Status" && marked && !at_once ? Removal::kTerminating
                                                                       : Removal::kGone;
}

Result<AccessAnswer> ApiClient::may(const AccessQuestion& question) {
  json::object attributes{{"verb", question.verb},
                          {"group", question.type.group},
                          {"version", question.type.version},
                          {"resource", question.type.plural}};
  const auto add = [&](std::string_view key, const std::string& value) {
    if (!value.empty()) {
      attributes[key] = value;
    }
  };
  add("subresource", question.subresource);
  add("namespace", question.name_space);
  add("name", question.name);
  Call call;
  call.method = "POST";
  call.target = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
  call.what = "ask what is allowed";
  call.body = to_text(json::object{{"kind", "SelfSubjectAccessReview"},
                                   {"apiVersion", "authorization.k8s.io/v1"},
                                   {"spec", json::object{{"resourceAttributes", attributes}}}});
  QUAD_ASSIGN(const auto answer, send_object(call));
  AccessAnswer result;
  if (const auto* status = get_object(answer, "status"); status != nullptr) {
    result.allowed = get_bool(*status, "allowed");
    result.reason = get_string(*status, "reason", get_string(*status, "evaluationError"));
  }
  return result;
}

Result<std::vector<ServedResource>> ApiClient::served(std::string_view group,
                                                      std::string_view version) {
  Call call;
  call.target =
      group.empty() ? fmt::format("/api/{}", version) : fmt::format("/apis/{}/{}", group, version);
  call.what = fmt::format("look for the API {}{}{}", group, group.empty() ? "" : "/", version);
  QUAD_ASSIGN(const auto answer, send_object(call));
  std::vector<ServedResource> served;
  const auto* resources = get_array(answer, "resources");
  for (std::size_t i = 0; resources != nullptr && i < resources->size(); ++i) {
    const auto* entry = (*resources)[i].if_object();
    if (entry == nullptr) {
      continue;
    }
    auto& resource = served.emplace_back();
    resource.plural = get_string(*entry, "name");
    resource.kind = get_string(*entry, "kind");
    resource.namespaced = get_bool(*entry, "namespaced");
    const auto* verbs = get_array(*entry, "verbs");
    for (std::size_t j = 0; verbs != nullptr && j < verbs->size(); ++j) {
      if (const auto* verb = (*verbs)[j].if_string(); verb != nullptr) {
        resource.verbs.emplace_back(verb->data(), verb->size());
      }
    }
  }
  return served;
}

Result<std::string> ApiClient::text(const std::string& target) {
  Call call;
  call.target = target;
  call.what = "get " + target;
  return send(call);
}

Status ApiClient::stream(const std::string& target, const net::ChunkSink& sink, Millis silence,
                         const std::function<void()>& on_open) {
  const auto what = "watch " + target.substr(0, target.find('?'));
  for (bool renewed = false;; renewed = true) {
    std::uint64_t generation = 0;
    net::Headers headers;
    auto http = connection(generation, headers);
    if (!http.ok()) {
      return fail({http.error(), {}});
    }
    auto response = (*http)->stream("GET", target, sink, silence, {}, headers,
                                    [&](const net::ClientResponse&) { on_open(); });
    if (cancel_->cancelled()) {
      return give_up();
    }
    if (!response.ok()) {
      return fail(no_answer(response.error(), what));
    }
    if (response->ok()) {
      return {};
    }
    if (response->status == 401 && !renewed) {
      server_->credentials().refused(generation);
      continue;
    }
    auto failed = error_of_body(response->status, response->body, what);
    failed.failure.retry_after = std::max(failed.failure.retry_after, retry_after(*response));
    return fail(std::move(failed));
  }
}

}  // namespace quad::kubernetes
