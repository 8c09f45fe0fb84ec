// pod_runners KUBECONFIG [--hold] [--finish]
//
// The runners of pods that have none: kwok's nodes only say that their pods run. For each rank of
// any Quad server whose pod turns Running it reads start.json from the attempt's Secret, as the
// pod's installer would, and speaks the runner's protocol (docs/runner-protocol.md): hello, order,
// the phases, go, a line of output, exited, bye. One thread for each rank, which mostly waits.
//
// --hold: ranks run until they are stopped, or their pod is deleted. --finish: once its runner is
// done, a pod is given the status that its kubelet would give it; else it stays Running until it is
// deleted, which is one write less.
//
// Prints "ready" once it watches, and runs until its standard input ends; then what became of the
// ranks, as JSON. Exits with 1 if a rank met with what the protocol does not allow.

#include <fmt/format.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <map>
#include <mutex>
#include <semaphore>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/base64.h"
#include "base/json.h"
#include "base/text.h"
#include "engine/kubernetes/client/watch.h"
#include "engine/kubernetes/views/pod_names.h"
#include "engine/kubernetes/writers.h"
#include "net/http_client.h"
#include "runner/protocol.h"

namespace {

namespace json = quad::json;
namespace kubernetes = quad::kubernetes;
using quad::Millis;

constexpr std::string_view kOutput = "done\n";
constexpr Millis kHeartbeat{1'000};
constexpr Millis kMostPause{1'000};
constexpr int kConnectingAtOnce = 16;
constexpr int kStatusWriters = 4;

struct Options {
  std::string kubeconfig;
  bool hold = false;
  bool finish = false;
};

/// A rank's pod, once it runs.
struct RankPod {
  std::string secret;  ///< of its attempt
  std::string rank;    ///< its number
  bool operator==(const RankPod&) const = default;
};

using SecretData = std::map<std::string, std::string>;  // as it comes: in base64

std::string owner_of(const json::object& metadata) {
  const json::array* owners = quad::get_array(metadata, "ownerReferences");
  return owners == nullptr || owners->empty() || !owners->front().is_object()
             ? std::string()
             : std::string(quad::get_string(owners->front().get_object(), "name"));
}

std::optional<RankPod> running_pod(const json::object& pod) {
  const json::object* metadata = quad::get_object(pod, "metadata");
  const json::object* labels = quad::get_object(*metadata, "labels");
  const json::object* status = quad::get_object(pod, "status");
  if (labels == nullptr || status == nullptr || quad::get_string(*status, "phase") != "Running" ||
      metadata->contains("deletionTimestamp")) {
    return std::nullopt;
  }
  return RankPod{owner_of(*metadata),
                 std::string(quad::get_string(*labels, kubernetes::kLabelRank))};
}

std::optional<SecretData> start_files(const json::object& secret) {
  SecretData data;
  if (const json::object* found = quad::get_object(secret, "data")) {
    for (const auto& [key, value] : *found) {
      if (value.is_string()) {
        data.emplace(key, value.get_string());
      }
    }
  }
  return data;
}

/// What all ranks share.
struct World {
  Options options;
  quad::SystemClock clock;
  std::shared_ptr<quad::net::Cancel> ending;
  std::unique_ptr<kubernetes::Writers> writers;
  std::counting_semaphore<> connecting{kConnectingAtOnce};
  std::atomic<int> ended{0};
  std::atomic<int> removed{0};

  std::mutex mutex;  ///< of faults: any rank may meet with one
  std::set<std::string> faults;

  void fault(std::string what) {
    const std::lock_guard lock(mutex);
    faults.insert(std::move(what));
  }
};

/// One rank's runner, from its pod's start to its end.
class Runner {
 public:
  Runner(World& world, std::string name_space, std::string pod, const SecretData& secret,
         const std::string& rank)
      : world_(world), name_space_(std::move(name_space)), pod_(std::move(pod)) {
    const auto file = [&](const std::string& name) {
      const auto found = secret.find(name);
      return found == secret.end() ? std::string()
                                   : quad::base64_decode(found->second).value_or("");
    };
    const auto start = quad::parse_json_object(file(fmt::format("start-{}.json", rank)));
    if (!start.ok()) {
      world_.fault("the Secret of an attempt has no start.json for a rank");
      return;
    }
    options_.url = quad::get_string(*start, "server");
    options_.ca_pem = file("ca.pem");
    options_.headers = {
        {"Authorization", fmt::format("Bearer {}", quad::get_string(*start, "token"))}};
    first_attempt_ = quad::get_int(*start, "epoch") == 1;
    head_ = rank == "0";
    target_ =
        fmt::format("/v1/runner?job={}&epoch={}&rank={}&nonce={}", quad::get_int(*start, "job"),
                    quad::get_int(*start, "epoch"), rank, quad::random_hex(16));
    thread_ = std::thread([this] { run(); });
    pthread_setname_np(thread_.native_handle(), "rank");
  }
  ~Runner() {
    if (thread_.joinable()) {
      thread_.join();
    }
  }

  /// Its pod was deleted: nothing more is heard of it.
  void pod_is_gone() { gone_ = true; }

 private:
  [[nodiscard]] bool over() const { return done_ || gone_ || world_.ending->cancelled(); }

  void run() {
    Millis pause{50};
    while (!over()) {
      auto stream = connect();
      if (stream != nullptr) {
        pause = Millis(50);
        frames_.reset();
        serve(*stream);
      } else {
        if (!world_.ending->sleep(pause)) {
          return;
        }
        pause = std::min(kMostPause, pause * 2);
      }
    }
    if (done_) {
      ++world_.ended;
      if (world_.options.finish && !gone_) {
        finish_pod();
      }
    }
    pending_.clear();
  }

  std::unique_ptr<quad::net::ClientStream> connect() {
    auto client = quad::net::HttpClient::create(options_);
    if (!client.ok()) {
      world_.fault(client.error().message);
      done_ = true;
      return nullptr;
    }
    world_.connecting.acquire();
    auto upgraded = client->upgrade(target_, quad::runner::kUpgradeProtocol);
    world_.connecting.release();
    if (!upgraded.ok()) {
      return nullptr;
    }
    if (upgraded->stream == nullptr) {
      const int status = upgraded->response.status;
      done_ = status == 401 || status == 403 || status == 409 || status == 410;
      if (status == 401 || status == 403) {
        world_.fault(upgraded->response.to_error().message);
      }
    }
    return std::move(upgraded->stream);
  }

  /// Until the connection ends, or the rank does.
  void serve(quad::net::ClientStream& stream) {
    std::string greeting = quad::runner::encode_message({{"type", "hello"},
                                                         {"version", 1},
                                                         {"address", "127.0.0.1"},
                                                         {"port", 1},
                                                         {"pid", 1},
                                                         {"phase", phase_},
                                                         {"log_offset", 0}});
    if (printed_) {
      greeting += quad::runner::encode_log(0, kOutput);
    }
    for (const auto& [seq, frame] : pending_) {
      greeting += frame;
    }
    quad::Status sent = stream.write(greeting);
    quad::MonoTime beat = world_.clock.now().mono;
    while (sent.ok() && !over()) {
      char* room = frames_.room(4096);
      const Millis wait = std::max(Millis(1), kHeartbeat - (world_.clock.now().mono - beat));
      const auto got = stream.read_some({room, 4096}, wait);
      if (got.ok() && *got == 0) {
        return;
      }
      if (!got.ok() && got.error().code != quad::ErrorCode::kTimeout) {
        return;
      }
      if (got.ok()) {
        frames_.commit(*got);
        answer_.clear();
        take_all();
        sent = answer_.empty() ? quad::Status() : stream.write(answer_);
      }
      if (const quad::MonoTime now = world_.clock.now().mono; now - beat >= kHeartbeat) {
        beat = now;
        sent = stream.write(quad::runner::encode_message({{"type", "heartbeat"},
                                                          {"rss_bytes", 1 << 20},
                                                          {"cpu_percent", 0.0},
                                                          {"at_ms", now.millis}}));
      }
    }
  }

  void take_all() {
    for (;;) {
      const auto frame = frames_.next_view();
      if (!frame.ok()) {
        world_.fault(frame.error().message);
        done_ = true;
        return;
      }
      if (!frame->has_value()) {
        return;
      }
      if ((*frame)->type == quad::runner::kJsonFrame) {
        const auto message = quad::runner::decode_message((*frame)->payload);
        if (message.ok()) {
          take(*message);
        }
      }
    }
  }

  void take(const json::object& message) {
    const std::string_view type = quad::get_string(message, "type");
    if (type == "order" && phase_ == "connected") {
      if (head_ && !first_attempt_) {
        tell({{"type", "resumed"}, {"path", ""}, {"step", -1}, {"note", ""}});
      }
      enter("setting_up");
      enter("ready");
    } else if (type == "go" && phase_ == "ready") {
      enter("running");
      printed_ = true;
      answer_ += quad::runner::encode_log(0, kOutput);
      if (!world_.options.hold) {
        exit("exited", 0, false);
      }
    } else if (type == "stop" && phase_ != "ended") {
      exit("signaled", 15, true);
    } else if (type == "ack") {
      const std::int64_t seq = quad::get_int(message, "seq");
      std::erase_if(pending_, [seq](const auto& one) { return one.first <= seq; });
    } else if (type == "bye" || type == "leave") {
      done_ = true;
    }
  }

  void enter(std::string phase) {
    phase_ = std::move(phase);
    tell({{"type", "phase"}, {"phase", phase_}});
  }

  void exit(std::string_view how, int code, bool by_quad) {
    phase_ = "ended";
    result_ = {{"how", how},
               {"code", code},
               {"by_quad", by_quad},
               {"out_of_memory", false},
               {"in_setup", false},
               {"detail", ""},
               {"at_ms", world_.clock.now().wall.millis}};
    json::object message = result_;
    message["type"] = "exited";
    message["log_end"] = printed_ ? kOutput.size() : 0;
    tell(std::move(message));
  }

  /// Kept, and sent again on the next connection, until it is acknowledged.
  void tell(json::object message) {
    message["seq"] = ++seq_;
    pending_.emplace_back(seq_, quad::runner::encode_message(message));
    answer_ += pending_.back().second;
  }

  /// As its kubelet does when the runner has exited.
  void finish_pod() {
    const std::string now = quad::format_rfc3339(world_.clock.now().wall);
    const json::object ended{
        {"exitCode", 0},
        {"reason", "Completed"},
        {"startedAt", now},
        {"finishedAt", now},
        {"message", quad::to_text(result_)},
    };
    const json::object container{{"name", "rank"},    {"image", "none"},
                                 {"imageID", ""},     {"ready", false},
                                 {"restartCount", 0}, {"state", {{"terminated", ended}}}};
    world_.writers->give(
        kubernetes::Urgency::kClear,
        [this, patch = json::value{{"status",
                                    {{"phase", "Succeeded"},
                                     {"containerStatuses", json::array{container}}}}}](
            kubernetes::ApiClient& client) {
          const auto done = client.patch({kubernetes::kPods, name_space_, pod_, "status"},
                                         kubernetes::PatchType::kMerge, patch);
          if (!done.ok() && done.error().code != quad::ErrorCode::kNotFound &&
              !world_.ending->cancelled()) {
            world_.fault(done.error().message);
          }
        });
  }

  World& world_;
  const std::string name_space_;
  const std::string pod_;
  quad::net::ClientOptions options_;
  std::string target_;
  bool first_attempt_ = true;
  bool head_ = false;

  // The rank's thread only.
  quad::runner::FrameReader frames_;
  std::string phase_ = "connected";
  bool printed_ = false;
  bool done_ = false;
  std::int64_t seq_ = 0;
  std::vector<std::pair<std::int64_t, std::string>> pending_;
  std::string answer_;
  json::object result_;

  std::atomic<bool> gone_{false};
  std::thread thread_;
};

/// Brings pods together with their Secrets, whichever the watches tell of first.
class Pods {
 public:
  explicit Pods(World& world) : world_(world) {}

  void take(const kubernetes::Change<RankPod>& change) {
    const std::lock_guard lock(mutex_);
    if (change.kind == kubernetes::ChangeKind::kRemoved) {
      if (const auto found = runners_.find(change.uid); found != runners_.end()) {
        ++world_.removed;
        found->second->pod_is_gone();
      }
      waiting_.erase(change.uid);
      return;
    }
    if (runners_.find(change.uid) == runners_.end()) {
      waiting_.insert_or_assign(change.uid, change);
      begin(change);
    }
  }

  void take(const kubernetes::Change<SecretData>& change) {
    const std::lock_guard lock(mutex_);
    if (change.kind == kubernetes::ChangeKind::kRemoved) {
      secrets_.erase(change.name);
      return;
    }
    secrets_.insert_or_assign(change.name, change.value);
    std::vector<kubernetes::Change<RankPod>> ready;
    for (const auto& [uid, pod] : waiting_) {
      if (pod.value.secret == change.name) {
        ready.push_back(pod);
      }
    }
    for (const auto& pod : ready) {
      begin(pod);
    }
  }

  [[nodiscard]] std::size_t count() {
    const std::lock_guard lock(mutex_);
    return runners_.size();
  }

 private:
  void begin(const kubernetes::Change<RankPod>& pod) {
    if (const auto secret = secrets_.find(pod.value.secret); secret != secrets_.end()) {
      waiting_.erase(pod.uid);
      runners_.emplace(pod.uid, std::make_unique<Runner>(world_, pod.name_space, pod.name,
                                                         secret->second, pod.value.rank));
    }
  }

  World& world_;
  std::mutex mutex_;  ///< two watchers tell of changes, each on its own thread
  std::map<std::string, SecretData> secrets_;
  std::map<std::string, kubernetes::Change<RankPod>> waiting_;  ///< for their Secret; by uid
  std::map<std::string, std::unique_ptr<Runner>> runners_;      ///< by the pod's uid
};

int fail(std::string_view what) {
  fmt::print(stderr, "pod_runners: {}\n", what);
  return 1;
}

/// Returns when nobody holds the other end any more.
void wait_for_end(int fd) {
  char byte = 0;
  while (::read(fd, &byte, 1) > 0) {
  }
}

}  // namespace

int main(int count, char** arguments) {
  World world;
  for (int i = 1; i < count; ++i) {
    const std::string_view word = arguments[i];
    if (word == "--hold") {
      world.options.hold = true;
    } else if (word == "--finish") {
      world.options.finish = true;
    } else if (world.options.kubeconfig.empty() && !word.starts_with('-')) {
      world.options.kubeconfig = word;
    } else {
      return fail("usage: pod_runners KUBECONFIG [--hold] [--finish]");
    }
  }
  kubernetes::AccessRequest request;
  request.kubeconfig = world.options.kubeconfig;
  const auto access = kubernetes::find_access(request, quad::net::process_environment());
  if (!access.ok()) {
    return fail(access.error().message);
  }
  kubernetes::ApiOptions api;
  api.writes_per_second = 0;
  const auto server = kubernetes::ApiServer::create(*access, api, world.clock);
  auto ending = quad::net::Cancel::create();
  auto writing = quad::net::Cancel::create();
  if (!server.ok() || !ending.ok() || !writing.ok()) {
    return fail(server.ok() ? "no file descriptors" : server.error().message);
  }
  world.ending = *ending;
  world.writers = std::make_unique<kubernetes::Writers>(*server, *writing, kStatusWriters);

  std::size_t ranks = 0;
  {
    Pods pods(world);
    kubernetes::WatchOptions watched;
    watched.name_space = access->name_space;
    watched.selection.labels = std::string(kubernetes::kLabelServer);
    watched.type = kubernetes::kSecrets;
    kubernetes::Watcher<SecretData> secret_watch(*server, watched, start_files,
                                                 [&](const auto& change) { pods.take(change); });
    watched.type = kubernetes::kPods;
    kubernetes::Watcher<RankPod> pod_watch(*server, watched, running_pod,
                                           [&](const auto& change) { pods.take(change); });
    if (!secret_watch.start().ok() || !pod_watch.start().ok()) {
      return fail("no file descriptors");
    }
    for (const quad::Status& synced :
         {secret_watch.wait_synced(Millis(30'000)), pod_watch.wait_synced(Millis(30'000))}) {
      if (!synced.ok()) {
        return fail(synced.error().message);
      }
    }
    fmt::print("ready\n");
    std::fflush(stdout);
    wait_for_end(STDIN_FILENO);
    world.ending->cancel();
    secret_watch.stop();
    pod_watch.stop();
    ranks = pods.count();
    world.writers->end();
  }
  json::array faults;
  for (const std::string& one : world.faults) {
    faults.push_back(json::value(one));
  }
  const bool clean = faults.empty();
  fmt::print("{}\n", quad::to_text(json::object{{"ranks", ranks},
                                                {"ended", world.ended.load()},
                                                {"pods_removed", world.removed.load()},
                                                {"faults", std::move(faults)}}));
  return clean ? 0 : 1;
}
