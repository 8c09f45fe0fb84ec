#include "runner/resumption.h"

#include "base/file.h"
#include "runner/resume.h"

namespace quad::runner {

Resumption::Outcome Resumption::begin() {
  if (start_.key.rank.value() != 0 || order_.checkpoint.job_dir.empty()) {
    return Resumed{};
  }
  if (start_.key.epoch.value() == 1) {
    // There is nothing earlier to fence off or to find. The fence itself is raised when its watch
    // begins.
    const std::string note = set_others_aside(order_);
    const Status made = make_folders(attempt_folder(start_, order_));
    return Resumed{.note = made.ok() ? note : made.error().message};
  }
  const Status begun =
      errand_.start([this](const WorkerOutput& output) { raise_work(start_, order_, output); });
  return begun.ok() ? Outcome() : CannotResume{begun.error().message};
}

void Resumption::end_wait(MonoTime now) {
  wait_ended_ = true;
  if (waits_until_) {
    waits_until_ = now;
  }
}

Resumption::Outcome Resumption::tick(MonoTime now) {
  if (!waits_until_ || now < *waits_until_) {
    return {};
  }
  waits_until_.reset();
  const Status begun =
      errand_.start([this](const WorkerOutput& output) { resume_work(start_, order_, output); });
  return begun.ok() ? Outcome() : CannotResume{begun.error().message};
}

Resumption::Outcome Resumption::receive(MonoTime now) {
  for (const json::object& message : errand_.receive()) {
    if (message.contains("fenced")) {
      return TakenOver{get_int(message, "fenced")};
    }
    if (message.contains("error")) {
      return CannotResume{std::string(get_string(message, "error"))};
    }
    if (message.contains("raised")) {
      waits_until_ = wait_ended_ ? now : now + order_.checkpoint.fence_wait;
    } else {
      return Resumed{std::string(get_string(message, "path")), get_int(message, "step", -1),
                     std::string(get_string(message, "note"))};
    }
  }
  return {};
}

void Resumption::kill() {
  waits_until_.reset();
  errand_.kill();
}

}  // namespace quad::runner
