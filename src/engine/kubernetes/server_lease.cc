#include "engine/kubernetes/server_lease.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "engine/kubernetes/views/attempt_manifest.h"

namespace quad::kubernetes {

namespace {

/// So that a lost answer leaves time for another try before the hold is not good any more.
constexpr Millis kPatience{4'000};
/// Whoever stops the server waits for this.
constexpr Millis kToLetGo{1'000};

ObjectRef lease_of(const PodSettings& settings) {
  return {kLeases, settings.namespace_name, server_lease_name(settings), ""};
}

}  // namespace

ServerLease::ServerLease(std::shared_ptr<ApiServer> server, const KubernetesOptions& options,
                         const Clock& clock, Listener listener)
    : server_(std::move(server)),
      settings_(options.settings),
      holder_(options.holder),
      times_(options.lease),
      clock_(clock),
      listener_(std::move(listener)) {
  QUAD_CHECK(!holder_.empty(), "a holder of a lease has a name");
}

Status ServerLease::start() {
  QUAD_ASSIGN(cancel_, net::Cancel::create());
  thread_ = std::thread([this] { run(); });
  return {};
}

void ServerLease::stop() {
  if (thread_.joinable()) {
    cancel_->cancel();
    thread_.join();
  }
}

bool ServerLease::good() const {
  return clock_.now().mono.millis < good_until_.load(std::memory_order_acquire);
}

ApiOptions ServerLease::patience(Millis timeout) const {
  ApiOptions options = server_->options();
  options.tries = 1;
  options.connect_timeout = std::min(options.connect_timeout, timeout);
  options.read_timeout = std::min(options.read_timeout, timeout);
  return options;
}

void ServerLease::run() {
  ApiClient client(server_, cancel_, patience(kPatience));
  bool well = false;
  do {
    look(client);
    if (cancel_->cancelled()) {
      break;
    }
    if (state_ != told_) {
      told_ = state_;
      listener_(state_);
    }
    well = state_.held && state_.trouble.empty();
  } while (cancel_->sleep(well ? times_.renew : times_.look));
  if (state_.held) {
    let_go();
  }
}

void ServerLease::look(ApiClient& client) {
  const Now asked = clock_.now();
  const ObjectRef ref = lease_of(settings_);
  const auto write = [&](const LeaseView& lease) {
    return client.patch(ref, PatchType::kMerge,
                        server_lease_manifest(settings_, lease, asked.wall));
  };
  if (state_.held) {
    const auto renewed = write(lease_);
    if (renewed.ok()) {
      return hold(*renewed, asked.mono, false);
    }
    // Else somebody wrote to it, if only an earlier try of this, or it is gone.
    if (renewed.error().code != ErrorCode::kExists &&
        renewed.error().code != ErrorCode::kNotFound) {
      state_.trouble = renewed.error().message;
      return;
    }
  }
  const auto there = client.get(ref);
  if (!there.ok() && there.error().code != ErrorCode::kNotFound) {
    state_.trouble = there.error().message;
    return;
  }
  LeaseView lease;
  if (there.ok()) {
    auto read = read_lease(*there);
    if (!read.ok()) {
      state_.trouble = read.error().message;
      return;
    }
    lease = std::move(read).value();
  }
  const bool own = lease.holder == holder_;
  if (!lease.holder.empty() && !own) {
    const MonoTime now = clock_.now().mono;
    if (lease.version != lease_.version) {
      lease_changed_ = now;
    }
    lease_ = lease;
    good_until_ = 0;
    state_.held = false;
    state_.other = lease.holder;
    state_.trouble.clear();
    const Millis theirs(lease.duration_seconds * 1000);
    if (now - lease_changed_ < std::max(theirs, times_.duration)) {
      return;
    }
  }
  const bool anew = !own || !state_.held;
  lease.holder = holder_;
  lease.duration_seconds = std::max<std::int64_t>(times_.duration.count() / 1000, 1);
  lease.transitions += own ? 0 : 1;
  Result<json::object> taken = json::object();
  if (there.ok()) {
    taken = write(lease);
  } else {
    auto made = client.create(kLeases, settings_.namespace_name,
                              server_lease_manifest(settings_, lease, asked.wall));
    if (made.ok() && made->existed) {
      return;  // somebody was faster, if only an earlier try of this: the next look tells
    }
    taken = made.ok() ? Result<json::object>(std::move(made->object)) : made.error();
  }
  if (taken.ok()) {
    hold(*taken, asked.mono, anew);
  } else if (taken.error().code != ErrorCode::kExists) {
    state_.trouble = taken.error().message;
  }
}

void ServerLease::hold(const json::object& object, MonoTime asked, bool anew) {
  if (auto lease = read_lease(object); lease.ok()) {
    lease_ = std::move(lease).value();
  }
  state_.held = true;
  state_.term += anew ? 1 : 0;
  state_.other.clear();
  state_.trouble.clear();
  good_until_.store((asked + times_.duration * 2 / 3).millis, std::memory_order_release);
}

void ServerLease::let_go() {
  good_until_ = 0;
  auto cancel = net::Cancel::create();
  if (!cancel.ok()) {
    return;
  }
  ApiClient client(server_, std::move(cancel).value(), patience(kToLetGo));
  const ObjectRef ref = lease_of(settings_);
  const auto there = client.get(ref);
  auto lease = there.ok() ? read_lease(*there) : Result<LeaseView>(there.error());
  if (!lease.ok() || lease->holder != holder_) {
    return;
  }
  lease->holder.clear();
  (void)client.patch(ref, PatchType::kMerge,
                     server_lease_manifest(settings_, *lease, clock_.now().wall));
}

}  // namespace quad::kubernetes
