// runner/errand.h
//
// A piece of work that is done once, by a worker, and must have an answer: a message without
// "error", or one with it; messages with "note" alone may come before. Whoever waits for it always
// gets one, also when the worker was killed from outside. Owned by the runner's one thread; the
// header of worker.h holds here too.

#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "runner/worker.h"

namespace quad::runner {

class Errand {
 public:
  /// `name` begins the sentence that tells of an end without an answer.
  explicit Errand(std::string name) : name_(std::move(name)) {}

  Status start(const std::function<void(const WorkerOutput&)>& work);
  /// Done by a worker that is somebody else's child.
  void follow(Worker worker);
  void kill() { worker_.kill(); }
  /// To be polled for reading; -1 when it is over.
  [[nodiscard]] int fd() const { return worker_.fd(); }
  /// What has come.
  std::vector<json::object> receive();

 private:
  std::string name_;
  Worker worker_;
  bool answered_ = false;
};

}  // namespace quad::runner
