#include "runner/standing_worker.h"

namespace quad::runner {
namespace {

constexpr Millis kRestart{5000};

}  // namespace

void StandingWorker::finish(MonoTime now) {
  if (!worker_.running() && !finishing_) {
    due_ = now;
    tick(now);
  }
  finishing_ = true;
  due_.reset();
  worker_.finish();
}

void StandingWorker::end() {
  finishing_ = true;
  due_.reset();
  worker_.kill();
}

void StandingWorker::tick(MonoTime now) {
  if (!due_ || now < *due_) {
    return;
  }
  due_.reset();
  auto worker = Worker::start(work_);
  if (worker.ok()) {
    worker_ = std::move(worker).value();
  } else {
    due_ = now + kRestart;
  }
}

std::vector<json::object> StandingWorker::receive(MonoTime now) {
  if (!worker_.running()) {
    return {};
  }
  auto messages = worker_.receive();
  if (!worker_.running()) {
    due_ = now + kRestart;
  }
  return messages;
}

}  // namespace quad::runner
