// engine/kubernetes/client/watch.h
//
// Follows the objects of one kind: a paged list, then a watch from where the list ends, taken up
// again at its last resourceVersion whenever it ends, for whatever reason; a new list, compared
// with what is known, when that version is too old (410) or cannot be gone on from. So no change is
// missed for good and none is told twice, though several between two looks are one.
//
// A Watcher has a thread of its own, which alone calls its functions; they must not block for long
// (the API server drops a watch that is not read; that costs a resume, or a list) and must not stop
// the Watcher. start(), stop() and state() from any thread; stop() ends every wait at once.
//
// When the API server is away the state says so, and since when: silence of an object is then no
// news of it. A connection is taken for dead when even the server's bookmarks, about one a minute,
// stay out for `silence`; between it and that, `heard` tells how old the last word is.
//
// Memory: what the projection keeps, some 250 bytes beside it for each object, and one page of a
// list or one event while it is read.

#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "engine/kubernetes/client/client.h"
#include "engine/kubernetes/client/mirror.h"

namespace quad::kubernetes {

struct WatchOptions {
  ResourceType type;
  std::string name_space;  ///< empty: all of them
  Selection selection;
  Millis silence{75'000};
  Millis least_pause{100};             ///< between tries; doubles up to
  Millis most_pause{2'000};            ///< few watch, and who is back is wanted at once
  Millis most_asked{30'000};           ///< that the server may ask for between tries
  std::size_t most_line = 16U << 20U;  ///< one event; etcd keeps objects of 1.5 MiB
  int open_seconds = 300;  ///< how long the server is asked to keep a watch open, at least
};

struct WatchState {
  bool synced = false;  ///< all is known, and the watch is open
  MonoTime heard;       ///< when the API server last said anything here
  /// When it was last in touch, if it is not any more; nothing before the first sync.
  std::optional<MonoTime> stale_since;
  std::string trouble;  ///< why it is not synced; empty if it is, or has just begun
};

/// The thread and its loop; the objects go to an ObjectSink.
class WatchLoop {
 public:
  /// Told when `synced`, or the trouble, changes; on the watcher's thread.
  using StateListener = std::function<void(const WatchState& state)>;

  WatchLoop(std::shared_ptr<ApiServer> server, WatchOptions options,
            std::unique_ptr<ObjectSink> objects, StateListener on_state);
  ~WatchLoop() { stop(); }
  WatchLoop(const WatchLoop&) = delete;
  WatchLoop& operator=(const WatchLoop&) = delete;

  Status start();
  void stop();
  [[nodiscard]] WatchState state() const;
  /// Waits for the first sync, after start(); the error is the trouble.
  [[nodiscard]] Status wait_synced(Millis timeout) const;

 private:
  class Run;

  std::shared_ptr<ApiServer> server_;
  const WatchOptions options_;
  std::unique_ptr<ObjectSink> objects_;
  StateListener on_state_;
  std::shared_ptr<net::Cancel> cancel_;
  std::shared_ptr<net::Cancel> first_sync_;
  mutable std::mutex mutex_;  ///< of state_, which other threads ask for
  WatchState state_;
  std::thread thread_;
};

/// A WatchLoop around a Mirror of T. T has operator==.
template <typename T>
class Watcher {
 public:
  Watcher(std::shared_ptr<ApiServer> server, WatchOptions options,
          typename Mirror<T>::Projection project, typename Mirror<T>::Listener on_change,
          WatchLoop::StateListener on_state = {})
      : loop_(std::move(server), std::move(options),
              std::make_unique<Mirror<T>>(std::move(project), std::move(on_change)),
              std::move(on_state)) {}

  Status start() { return loop_.start(); }
  void stop() { loop_.stop(); }
  [[nodiscard]] WatchState state() const { return loop_.state(); }
  [[nodiscard]] Status wait_synced(Millis timeout) const { return loop_.wait_synced(timeout); }

 private:
  WatchLoop loop_;
};

}  // namespace quad::kubernetes
