// engine/kubernetes/client/client.h
//
// The Kubernetes API, typed as far as Quad needs it. An ApiServer is one cluster's: shared by all
// threads, it keeps the credentials fresh and the writes below a rate. An ApiClient is one
// connection to it: one thread at a time, blocking, kept alive from call to call; another thread
// ends whatever it waits for with its Cancel.
//
// Every wait is bounded: a call makes at most `tries` tries, each at most connect_timeout +
// read_timeout without a byte, with pauses of at most fifteen seconds between them. Tried again:
// what the server put off (429, 503; Retry-After is honoured), its passing troubles (500, 502, 504,
// a conflict inside a quota), and a broken or refused connection. A 401 makes the credentials anew,
// once. What is not safe to do twice (a JSON patch) is not tried again once it may have arrived.
//
// Errors say what was tried and what the server said: kInvalid, kDenied (also without valid
// credentials), kNotFound, kExists (there already, or a conflict), kExhausted (429), kUnsupported,
// kUnavailable (no answer, whatever the reason, also a Cancel). last_failure() has the details.

#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "engine/kubernetes/client/api_error.h"
#include "engine/kubernetes/client/credentials.h"
#include "engine/kubernetes/client/kubeconfig.h"
#include "engine/kubernetes/client/pace.h"
#include "engine/kubernetes/client/resource.h"
#include "net/cancel.h"
#include "net/http_client.h"

namespace quad::kubernetes {

struct ApiOptions {
  Millis connect_timeout{5'000};
  Millis read_timeout{30'000};
  int tries = 5;
  Millis first_pause{100};
  double writes_per_second = 200;  ///< of all clients together; 0: no bound
  double write_burst = 400;
  std::string field_manager = "quad";
};

class ApiServer {
 public:
  /// Checks the address; connects to nothing yet. `clock` outlives this.
  static Result<std::shared_ptr<ApiServer>> create(ClusterAccess access, ApiOptions options,
                                                   const Clock& clock);

  [[nodiscard]] const ClusterAccess& access() const { return access_; }
  [[nodiscard]] const ApiOptions& options() const { return options_; }
  [[nodiscard]] const Clock& clock() const { return clock_; }
  [[nodiscard]] Credentials& credentials() { return credentials_; }
  [[nodiscard]] RateLimit& write_limit() { return write_limit_; }

 private:
  ApiServer(ClusterAccess access, ApiOptions options, const Clock& clock);

  const ClusterAccess access_;
  const ApiOptions options_;
  const Clock& clock_;
  Credentials credentials_;
  RateLimit write_limit_;
};

struct Selection {
  std::string labels;
  std::string fields;
};

struct WriteOptions {
  bool dry_run = false;  ///< the server checks and admits it all, and keeps nothing
  bool force = true;     ///< for apply(): takes fields over from other managers
};

/// What a create() ended with.
struct Created {
  json::object object;   ///< as the server has it
  bool existed = false;  ///< an object of that name was there: `object` is that one
  /// An earlier try of this very call got no answer, so an object that existed may be the one that
  /// it made. Whose it is must be told by what stands in it.
  bool repeated = false;
};

enum class PatchType { kMerge, kStrategic, kJson };

struct RemoveOptions {
  std::optional<std::int64_t> grace_seconds;  ///< 0 removes a pod without its kubelet's word
  std::string propagation = "Background";     ///< or Foreground, Orphan
  std::string uid;  ///< only this very object, and not a later one of the same name
  bool dry_run = false;
};

enum class Removal {
  kGone,         ///< it is not there (any more)
  kTerminating,  ///< it is marked, and goes when its grace or its finalizers are over
  kReplaced,     ///< another object has the name; the one with the uid is gone
};

/// A question to the authorizer. An empty name space asks about all.
struct AccessQuestion {
  std::string verb;
  ResourceType type;
  std::string subresource;
  std::string name_space;
  std::string name;
};

struct AccessAnswer {
  bool allowed = false;
  std::string reason;
};

struct ServedResource {
  std::string plural;  ///< "pods", "pods/log"
  std::string kind;
  bool namespaced = false;
  std::vector<std::string> verbs;
};

class ApiClient {
 public:
  ApiClient(std::shared_ptr<ApiServer> server, std::shared_ptr<net::Cancel> cancel);
  /// With patience of its own.
  ApiClient(std::shared_ptr<ApiServer> server, std::shared_ptr<net::Cancel> cancel,
            ApiOptions options);

  Result<json::object> get(const ObjectRef& ref);

  /// Takes each item of a list. Called again from the first one after `restart`.
  using ItemSink = std::function<void(json::object item)>;
  /// All objects, page by page, so that no more than a page is ever held; returns the list's
  /// resourceVersion. A list that expires between two pages is begun anew: `restart` is called, and
  /// what was seen before is void.
  Result<std::string> list(const ResourceType& type, std::string_view name_space,
                           const Selection& selection, const ItemSink& item,
                           const std::function<void()>& restart);

  /// `object` has its name in metadata: a fixed one, so that a repeated create is one.
  Result<Created> create(const ResourceType& type, const std::string& name_space,
                         const json::object& object, const WriteOptions& options = {});
  /// Creates a subresource, such as an eviction: done once for each time it is asked.
  Result<json::object> post(const ObjectRef& ref, const json::object& body,
                            const WriteOptions& options = {});
  /// Server-side apply, as the field manager of the options.
  Result<json::object> apply(const ObjectRef& ref, const json::object& object,
                             const WriteOptions& options = {});
  Result<json::object> patch(const ObjectRef& ref, PatchType type, const json::value& patch,
                             const WriteOptions& options = {});
  Result<Removal> remove(const ObjectRef& ref, const RemoveOptions& options = {});

  /// Whether this user may.
  Result<AccessAnswer> may(const AccessQuestion& question);
  /// What the server has of a group and version; kNotFound if it has not heard of it.
  Result<std::vector<ServedResource>> served(std::string_view group, std::string_view version);
  /// A GET of whatever it is, as text: "/readyz", "/version", a pod's log.
  Result<std::string> text(const std::string& target);

  /// Opens a stream of lines and gives `sink` its pieces until it ends, `sink` returns false, or
  /// nothing comes for `silence`. `on_open` is called once the server has agreed. One try.
  Status stream(const std::string& target, const net::ChunkSink& sink, Millis silence,
                const std::function<void()>& on_open);

  /// Of the last call that failed.
  [[nodiscard]] const ApiFailure& last_failure() const { return failure_; }
  [[nodiscard]] ApiServer& server() { return *server_; }
  [[nodiscard]] const net::Cancel& cancel() const { return *cancel_; }

 private:
  struct Call;
  Result<std::string> send(const Call& call, bool* repeated = nullptr);
  Result<json::object> send_object(const Call& call, bool* repeated = nullptr);
  Result<net::HttpClient*> connection(std::uint64_t& generation, net::Headers& headers);
  Error fail(ApiError failed);
  Error give_up();

  std::shared_ptr<ApiServer> server_;
  std::shared_ptr<net::Cancel> cancel_;
  ApiOptions options_;
  Backoff backoff_;
  std::optional<net::HttpClient> http_;
  std::string certificate_;  ///< with which http_ shows itself
  ApiFailure failure_;
};

}  // namespace quad::kubernetes
