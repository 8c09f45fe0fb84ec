// server/work_pool.h
//
// Threads for what takes longer than the io thread may stop for: reading what was submitted, dry
// runs, history, long lists. Work is cut into pieces of some milliseconds, and the callers who have
// any take turns, a piece each: whoever brings a lot waits for it alone, and a short request of
// another waits for one piece of each. One caller never has all threads, where there are two.
//
// Everything is bounded: the work of one caller and of all, beyond which add() refuses. The threads
// run at a lower priority than the rest of the server, so that heartbeats, the ticker and answers
// that are due come first on a machine that is busy with this.
//
// add() from any thread. Pieces and `done` are called on a thread of the pool; an exception in a
// piece ends its work. The destructor waits for the pieces that are running and drops the rest.

#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"

namespace quad::server {

struct WorkBounds {
  std::size_t threads = 2;
  std::size_t most_of_caller = 64;  ///< works that wait or run
  std::size_t most = 1024;
};

/// As many threads as may work beside a server on this machine.
WorkBounds usual_work_bounds();

class WorkPool {
 public:
  /// Does a piece of the work; true if there is more. Owns what it uses, as whoever asked may be
  /// gone.
  using Piece = std::function<bool()>;
  /// Called once: after the last piece, with what a piece threw, or when the work was dropped
  /// because nobody wants it any more.
  using Done = std::function<void(std::exception_ptr)>;

  explicit WorkPool(WorkBounds bounds);
  ~WorkPool();
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  /// kExhausted if the caller has too much under way already, kUnavailable if all have; `done` is
  /// then never called. When `unwanted` is asked to stop, no further piece is done.
  Status add(const std::string& caller, Piece piece, Done done, std::stop_token unwanted = {});

 private:
  struct Work {
    Piece piece;
    Done done;
    std::stop_token unwanted;
  };
  struct Caller {
    std::deque<Work> waiting;
    std::size_t running = 0;
    bool in_turn = false;  ///< in turns_
  };
  using Callers = std::map<std::string, Caller>;

  void loop();
  /// Puts the caller into the turns if it has work that may run now, and forgets it if it has none.
  void settle(Callers::iterator caller);

  const WorkBounds bounds_;
  /// Guards all below: the io thread puts work in and several threads take it out, and none holds
  /// it for longer than that takes.
  std::mutex mutex_;
  std::condition_variable more_;
  Callers callers_;
  std::deque<Callers::iterator> turns_;
  std::size_t size_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace quad::server
