#include "runner/errand.h"

#include <fmt/format.h>

#include <algorithm>

namespace quad::runner {

Status Errand::start(const std::function<void(const WorkerOutput&)>& work) {
  answered_ = false;
  QUAD_ASSIGN(worker_, Worker::start(work));
  return {};
}

void Errand::follow(Worker worker) {
  answered_ = false;
  worker_ = std::move(worker);
}

std::vector<json::object> Errand::receive() {
  if (!worker_.running()) {
    return {};
  }
  auto messages = worker_.receive();
  answered_ = answered_ || std::any_of(messages.begin(), messages.end(), [](const auto& message) {
                return message.size() > 1 || !message.contains("note");
              });
  if (!worker_.running() && !answered_) {
    answered_ = true;
    messages.push_back({{"error", fmt::format("{} ended without an answer", name_)}});
  }
  return messages;
}

}  // namespace quad::runner
