// engine/kubernetes/server_lease.h
//
// Which of several servers with the same records gives the orders in a cluster: the one that holds
// the Lease of their common id, in the jobs' namespace. There are several when a data directory was
// copied, or when a Deployment's old pod has not died yet; both would drive the same pods.
//
// The holder renews its hold; another takes it when it has seen no renewal for the lease's whole
// duration, by its own clock (no two clocks are compared), or at once when the holder let go of it.
// A write is only for the version that was read, so of two that try one succeeds. A holder that has
// not managed to renew for two thirds of the duration counts its hold as not good, and gives no
// orders until it has: whoever takes the lease meanwhile is alone. It lets go of nothing else,
// since silence of the API server is no sign of another holder.
//
// A thread of its own, with a connection of its own, so that no other write holds up a renewal. It
// calls the listener; good() is for any thread. Costs a small write each five seconds.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "engine/kubernetes/client/client.h"
#include "engine/kubernetes/kubernetes.h"
#include "engine/kubernetes/views/lease_view.h"

namespace quad::kubernetes {

struct LeaseState {
  bool held = false;
  /// Grows when the lease was taken anew: between two terms another server may have given orders.
  std::uint64_t term = 0;
  std::string other;    ///< who holds it instead
  std::string trouble;  ///< why nobody knows, or why it is not renewed; empty when all is well
  bool operator==(const LeaseState&) const = default;
};

class ServerLease {
 public:
  using Listener = std::function<void(const LeaseState& state)>;

  /// `clock` outlives this. Nothing happens before start().
  ServerLease(std::shared_ptr<ApiServer> server, const KubernetesOptions& options,
              const Clock& clock, Listener listener);
  ~ServerLease() { stop(); }
  ServerLease(const ServerLease&) = delete;
  ServerLease& operator=(const ServerLease&) = delete;

  Status start();
  /// Lets go of the lease, if it is held; waits for the API server for a second or two at most.
  void stop();
  /// Whether this server holds the lease and nobody else can have it yet.
  [[nodiscard]] bool good() const;

 private:
  void run();
  /// Renews the hold, or sees whether the lease can be had.
  void look(ApiClient& client);
  void hold(const json::object& object, MonoTime asked, bool anew);
  void let_go();
  [[nodiscard]] ApiOptions patience(Millis timeout) const;

  std::shared_ptr<ApiServer> server_;
  const PodSettings settings_;
  const std::string holder_;
  const LeaseTimes times_;
  const Clock& clock_;
  const Listener listener_;
  std::shared_ptr<net::Cancel> cancel_;
  std::atomic<std::int64_t> good_until_{0};  ///< in MonoTime's milliseconds

  // The thread's only.
  LeaseState state_;
  LeaseState told_;
  LeaseView lease_;         ///< as it was last seen or written
  MonoTime lease_changed_;  ///< when another holder's was first seen as it is
  std::thread thread_;
};

}  // namespace quad::kubernetes
