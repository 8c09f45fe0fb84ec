#include "engine/kubernetes/client/watch.h"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>

#include <algorithm>
#include <random>

#include "net/message.h"

namespace quad::kubernetes {

namespace {

/// A watch that lived this long, or brought something, was a good one.
constexpr Millis kGoodLife{5'000};
/// How often a version is gone on from although it fails in ways that a list may mend.
constexpr int kMostResumes = 3;

std::string version_of(const json::object& object) {
  const auto* metadata = get_object(object, "metadata");
  return metadata == nullptr ? std::string()
                             : std::string(get_string(*metadata, "resourceVersion"));
}

}  // namespace

/// The watcher's thread.
class WatchLoop::Run {
 public:
  explicit Run(WatchLoop& loop)
      : loop_(loop),
        options_(loop.options_),
        client_(loop.server_, loop.cancel_),
        backoff_(options_.least_pause, options_.most_pause, random_seed()),
        random_(random_seed()) {}

  void operator()() {
    while (!loop_.cancel_->cancelled()) {
      const auto pause = version_.empty() ? list() : watch();
      if (!loop_.cancel_->sleep(pause)) {
        return;
      }
    }
  }

 private:
  [[nodiscard]] MonoTime now() const { return loop_.server_->clock().now().mono; }

  void heard() {
    const std::lock_guard lock(loop_.mutex_);
    loop_.state_.heard = now();
  }

  void in_touch() {
    heard();
    update([&](WatchState& state) {
      state.synced = true;
      state.stale_since.reset();
      state.trouble.clear();
    });
    loop_.first_sync_->cancel();
  }

  void out_of_touch(const std::string& why) {
    update([&](WatchState& state) {
      if (state.synced) {
        state.stale_since = state.heard;
      }
      state.synced = false;
      state.trouble = why;
    });
  }

  template <typename Edit>
  void update(const Edit& edit) {
    WatchState copy;
    {
      const std::lock_guard lock(loop_.mutex_);
      const bool synced = loop_.state_.synced;
      const auto trouble = loop_.state_.trouble;
      edit(loop_.state_);
      if (synced == loop_.state_.synced && trouble == loop_.state_.trouble) {
        return;
      }
      copy = loop_.state_;
    }
    if (loop_.on_state_) {
      loop_.on_state_(copy);
    }
  }

  /// Something is wrong: says so, and how long to wait before the next try.
  Millis trouble(const std::string& why, Millis asked) {
    if (!loop_.cancel_->cancelled()) {
      out_of_touch(why);
    }
    return std::max(backoff_.next(), std::min(asked, options_.most_asked));
  }

  Millis list() {
    auto& objects = *loop_.objects_;
    objects.list_begins();
    auto version = client_.list(
        options_.type, options_.name_space, options_.selection,
        [&](const json::object& item) {
          heard();
          objects.present(item);
        },
        [&] { objects.list_begins(); });
    if (!version.ok()) {
      return trouble(version.error().message, client_.last_failure().retry_after);
    }
    if (version->empty()) {
      return trouble("The Kubernetes API server's list has no resourceVersion.", Millis(0));
    }
    heard();
    objects.list_ends();
    version_ = std::move(version).value();
    resumes_ = 0;
    return Millis(0);
  }

  [[nodiscard]] std::string target() {
    const auto seconds =
        options_.open_seconds +
        static_cast<int>(random_() % static_cast<std::uint64_t>(options_.open_seconds + 1));
    auto target = collection_path(options_.type, options_.name_space) +
                  fmt::format(
                      "?watch=true&allowWatchBookmarks=true&resourceVersion={}"
                      "&timeoutSeconds={}",
                      net::percent_encode(version_), seconds);
    if (!options_.selection.labels.empty()) {
      target += "&labelSelector=" + net::percent_encode(options_.selection.labels);
    }
    if (!options_.selection.fields.empty()) {
      target += "&fieldSelector=" + net::percent_encode(options_.selection.fields);
    }
    return target;
  }

  /// How the reading of a watch's lines ended, when it was this side that ended it.
  enum class End { kNone, kExpired, kRefused, kBroken };

  Millis watch() {
    line_.clear();
    end_ = End::kNone;
    events_ = 0;
    const auto begun = now();
    const auto done = client_.stream(
        target(), [&](std::string_view piece) { return take(piece); }, options_.silence,
        [&] { in_touch(); });
    line_ = {};  // a long line's memory is not kept
    const bool good = events_ > 0 || (done.ok() && now() - begun >= kGoodLife);
    if (good) {
      backoff_.reset();
      resumes_ = 0;
    }
    switch (end_) {
      case End::kExpired:
        return begin_anew(good);
      case End::kRefused:
      case End::kBroken:
        return resume_or_list(why_, asked_);
      case End::kNone:
        break;
    }
    if (done.ok()) {  // the server's own time was up, or it is restarting
      return good ? Millis(0) : backoff_.next();
    }
    const auto& failure = client_.last_failure();
    if (failure.http == 410) {
      return begin_anew(good);
    }
    if (failure.http == 400 || failure.has_cause("ResourceVersionTooLarge")) {
      return resume_or_list(done.error().message, failure.retry_after);
    }
    return trouble(done.error().message, failure.retry_after);
  }

  /// The version is too old. A server that says so of each new list is not asked in a circle.
  Millis begin_anew(bool good) {
    version_.clear();
    return good ? Millis(0) : backoff_.next();
  }

  Millis resume_or_list(const std::string& why, Millis asked) {
    if (++resumes_ >= kMostResumes) {
      version_.clear();
    }
    return trouble(why, asked);
  }

  /// Takes a piece of the stream; false ends it.
  bool take(std::string_view piece) {
    heard();
    while (!piece.empty()) {
      const auto newline = piece.find('\n');
      const auto part = piece.substr(0, newline);
      if (line_.size() + part.size() > options_.most_line) {
        return end(End::kBroken, fmt::format("The Kubernetes API server sent an event of more than "
                                             "{} bytes about {}.",
                                             options_.most_line, options_.type.plural));
      }
      if (newline == std::string_view::npos) {
        line_ += part;
        return true;
      }
      const bool going = line_.empty() ? event(part) : event(line_ += part);
      line_.clear();
      if (!going) {
        return false;
      }
      piece.remove_prefix(newline + 1);
    }
    return true;
  }

  bool end(End how, std::string why = {}, Millis asked = Millis(0)) {
    end_ = how;
    why_ = std::move(why);
    asked_ = asked;
    return false;
  }

  bool event(std::string_view line) {
    if (line.empty() || line == "\r") {
      return true;
    }
    const auto parsed = parse_json_object(line, 128);
    const auto* object = parsed.ok() ? get_object(*parsed, "object") : nullptr;
    if (object == nullptr) {
      return end(End::kBroken, fmt::format("The Kubernetes API server's watch of {} sent a line "
                                           "that is no event.",
                                           options_.type.plural));
    }
    const auto type = get_string(*parsed, "type");
    if (type == "ERROR") {
      const auto failed = error_of_status(static_cast<int>(get_int(*object, "code")), *object,
                                          fmt::format("watch {}", options_.type.plural));
      if (failed.failure.http == 410 || failed.failure.reason == "Expired" ||
          failed.failure.reason == "Gone") {
        return end(End::kExpired);
      }
      return end(End::kRefused, failed.error.message, failed.failure.retry_after);
    }
    auto version = version_of(*object);
    if (version.empty()) {
      return end(End::kBroken, fmt::format("The Kubernetes API server's watch of {} sent an object "
                                           "without a resourceVersion.",
                                           options_.type.plural));
    }
    if (type == "ADDED" || type == "MODIFIED") {
      loop_.objects_->present(*object);
    } else if (type == "DELETED") {
      loop_.objects_->removed(*object);
    }  // a BOOKMARK has a version and nothing else
    version_ = std::move(version);
    ++events_;
    return true;
  }

  WatchLoop& loop_;
  const WatchOptions& options_;
  ApiClient client_;
  Backoff backoff_;
  std::mt19937_64 random_;
  std::string version_;  ///< to go on from; empty: a list is due
  int resumes_ = 0;      ///< in a row that brought nothing
  std::string line_;     ///< the beginning of one whose end has not come
  std::uint64_t events_ = 0;
  End end_ = End::kNone;
  std::string why_;
  Millis asked_{0};
};

WatchLoop::WatchLoop(std::shared_ptr<ApiServer> server, WatchOptions options,
                     std::unique_ptr<ObjectSink> objects, StateListener on_state)
    : server_(std::move(server)),
      options_(std::move(options)),
      objects_(std::move(objects)),
      on_state_(std::move(on_state)) {}

Status WatchLoop::start() {
  QUAD_CHECK(!thread_.joinable(), "a watcher is started once");
  QUAD_ASSIGN(cancel_, net::Cancel::create());
  QUAD_ASSIGN(first_sync_, net::Cancel::create());
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "quad-watch");
    Run run(*this);
    run();
  });
  return {};
}

void WatchLoop::stop() {
  if (thread_.joinable()) {
    cancel_->cancel();
    thread_.join();
  }
}

WatchState WatchLoop::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

Status WatchLoop::wait_synced(Millis timeout) const {
  const auto waited = net::wait_for_fd(first_sync_->fd(), POLLIN, timeout, cancel_.get());
  if (waited == net::Waited::kReady) {
    return {};
  }
  const auto why = state().trouble;
  return error(ErrorCode::kUnavailable,
               why.empty() ? fmt::format("The Kubernetes API server did not list {} within {}.",
                                         options_.type.plural, format_duration(timeout))
                           : why);
}

}  // namespace quad::kubernetes
