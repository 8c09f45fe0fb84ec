#include "runner/resume.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "base/text.h"
#include "base/time.h"
#include "checkpoint/bring_forward.h"
#include "checkpoint/fence.h"
#include "checkpoint/keep.h"
#include "checkpoint/select.h"
#include "checkpoint/take_over.h"
#include "checkpoint/watch.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr std::size_t kMostPassedOver = 3;  // told in the note
constexpr std::size_t kMostGoneAtOnce = 256;

void pause(Millis time) {
  if (time.count() > 0) {
    ::poll(nullptr, 0, static_cast<int>(std::min<std::int64_t>(time.count(), 3'600'000)));
  }
}

Now now() {
  return SystemClock().now();
}

std::vector<checkpoint::Root> roots_of(const checkpoint::FileView& view, const Start& start,
                                       const Order& order) {
  const Epoch epoch = start.key.epoch;
  std::vector<checkpoint::Root> roots =
      checkpoint::attempt_roots(view, order.checkpoint.job_dir, epoch);
  if (!order.checkpoint.path.empty()) {
    roots.push_back({order.checkpoint.path, epoch, true});
  }
  return roots;
}

checkpoint::SelectOptions select_options(const Start& start, const Order& order) {
  checkpoint::SelectOptions options;
  options.now = now().wall;
  options.current = start.key.epoch;
  options.marker = order.checkpoint.marker;
  return options;
}

void add_sentence(std::string& note, std::string_view sentence) {
  if (sentence.empty()) {
    return;
  }
  note += note.empty() ? "" : " ";
  note += sentence;
}

json::object resumed(std::string_view path, std::int64_t step, std::string_view note) {
  return {{"resumed", true}, {"path", path}, {"step", step}, {"note", note}};
}

// Where a person finds it: "e1/step-000020.safetensors", or the task's own path.
std::string name_of(const checkpoint::Candidate& candidate) {
  const fs::path& path = candidate.found.path;
  if (candidate.root.users_own) {
    return checkpoint::shown(path.string());
  }
  return checkpoint::shown(path.lexically_relative(candidate.root.path.parent_path()).string());
}

// "Passed over e1/step-000020.safetensors: it is cut off." The reason may begin with the name
// itself.
std::string passed_over_sentence(const checkpoint::Candidate& candidate) {
  std::string reason = candidate.verdict.reason;
  const std::string itself = checkpoint::shown(candidate.found.path.filename().string()) + " ";
  if (reason.starts_with(itself)) {
    reason.replace(0, itself.size(), "it ");
  }
  return fmt::format("Passed over {}: {}", name_of(candidate), reason);
}

std::string brought_sentence(Epoch from, checkpoint::How how) {
  const char* by = "a hard link";
  switch (how) {
    case checkpoint::How::kInPlace:
      return "It stays where it is.";
    case checkpoint::How::kHardLink:
      break;
    case checkpoint::How::kReflink:
      by = "a reflink";
      break;
    case checkpoint::How::kCopy:
      by = "a copy";
      break;
    case checkpoint::How::kSymlink:
      by = "a symbolic link";
      break;
  }
  return fmt::format("Brought from attempt {} by {}.", from.value(), by);
}

json::object pick(const Start& start, const Order& order) {
  const checkpoint::PosixFileView view;
  const checkpoint::SelectOptions options = select_options(start, order);
  const checkpoint::Selection selection =
      checkpoint::newest_valid(view, roots_of(view, start, order), options);
  std::string note;
  for (std::size_t i = 0; i < std::min(kMostPassedOver, selection.passed_over.size()); ++i) {
    add_sentence(note, passed_over_sentence(selection.passed_over[i]));
  }
  if (selection.passed_over.size() > kMostPassedOver) {
    add_sentence(note, fmt::format("{} more were passed over.",
                                   selection.passed_over.size() - kMostPassedOver));
  }
  for (const std::string& sentence : selection.notes) {
    add_sentence(note, sentence);
  }
  const fs::path folder = attempt_folder(start, order);
  if (!selection.chosen.has_value()) {
    if (auto begun = checkpoint::begin_afresh(folder, start.key.epoch); !begun.ok()) {
      add_sentence(note, begun.error().message);
    }
    return resumed("", -1, note);
  }
  const checkpoint::Candidate& chosen = *selection.chosen;
  const std::int64_t step = chosen.verdict.step.value_or(-1);
  auto brought = checkpoint::bring_forward(view, chosen, folder, start.key.epoch,
                                           {.now = now().wall, .marker = options.marker});
  if (!brought.ok()) {
    // It can be read where it is; only writing over it would be a danger.
    add_sentence(note, fmt::format("It is used where it is, since it could not be brought: {}",
                                   brought.error().message));
    return resumed(chosen.found.path.string(), step, note);
  }
  add_sentence(note, brought_sentence(chosen.root.epoch, brought.value().how));
  return resumed(brought.value().path.string(), step, note);
}

// Sends {"fenced"} if the error says that a newer attempt has taken over.
bool is_fenced(const Start& start, const Order& order, const Status& raised,
               const WorkerOutput& output) {
  if (raised.ok() || raised.error().code != ErrorCode::kExists) {
    return false;
  }
  auto fence = checkpoint::read_fence(order.checkpoint.job_dir);
  const bool known = fence.ok() && fence.value().has_value();
  output.send({{"fenced", known ? fence.value()->epoch.value() : start.key.epoch.value() + 1}});
  return true;
}

}  // namespace

fs::path attempt_folder(const Start& start, const Order& order) {
  return fs::path(order.checkpoint.job_dir) / fmt::format("e{}", start.key.epoch.value());
}

std::string set_others_aside(const Order& order) {
  const fs::path folder = order.checkpoint.job_dir;
  std::error_code failure;
  if (!fs::exists(checkpoint::fence_path(folder), failure)) {
    return {};
  }
  const fs::path aside = folder / fmt::format("others-{}", random_hex(4));
  std::vector<fs::path> left;
  for (fs::directory_iterator it(folder, failure), end; !failure && it != end;
       it.increment(failure)) {
    left.push_back(it->path());
  }
  fs::create_directory(aside, failure);
  for (const fs::path& one : left) {
    if (!one.filename().string().starts_with("others-") && !failure) {
      fs::rename(one, aside / one.filename(), failure);
    }
  }
  return failure ? fmt::format("What another job of this number left in {} cannot be moved: {}.",
                               folder.string(), failure.message())
                 : fmt::format("What another job of this number had left was moved to {}.",
                               aside.string());
}

void raise_work(const Start& start, const Order& order, const WorkerOutput& output) {
  const Status raised =
      checkpoint::raise_fence(order.checkpoint.job_dir, start.key.epoch, now().wall);
  if (is_fenced(start, order, raised, output)) {
    return;
  }
  if (!raised.ok()) {
    output.send({{"error", fmt::format("The fence in {} cannot be raised: {}",
                                       order.checkpoint.job_dir, raised.error().message)}});
    return;
  }
  output.send({{"raised", true}});
}

void resume_work(const Start& start, const Order& order, const WorkerOutput& output) {
  output.send(pick(start, order));
}

void watch_fence(const Start& start, const Order& order, const WorkerOutput& output) {
  const fs::path folder = order.checkpoint.job_dir;
  const Epoch own = start.key.epoch;
  for (;; pause(1000ms)) {
    const MonoTime asked = now().mono;
    auto fence = checkpoint::read_fence(folder);
    if (!fence.ok()) {
      continue;
    }
    const std::optional<checkpoint::Fence>& stands = fence.value();
    if (stands && stands->epoch > own) {
      output.send({{"fenced", stands->epoch.value()}});
      return;
    }
    bool answered = stands.has_value();
    if (start.key.rank.value() == 0 && (!stands || stands->epoch < own)) {
      const Status raised = checkpoint::raise_fence(folder, own, now().wall);
      if (is_fenced(start, order, raised, output)) {
        return;
      }
      answered = answered || raised.ok();
    }
    if (answered && order.checkpoint.lease > 0ms) {
      output.send({{"lease", asked.millis}});
    }
  }
}

namespace {

void report(const checkpoint::NewCheckpoint& fresh, const WorkerOutput& output) {
  output.send({{"checkpoint",
                {{"path", fresh.found.path.string()},
                 {"step", fresh.verdict.step.value_or(-1)},
                 {"bytes", fresh.verdict.size},
                 {"seconds", static_cast<double>(fresh.took.count()) / 1000.0},
                 {"framework", checkpoint::to_string(fresh.verdict.framework)},
                 {"note", fresh.verdict.reason}}}});
}

void note(std::string_view kind, std::string_view message, const WorkerOutput& output) {
  output.send({{"note", message}, {"kind", kind}});
}

void report_gone(const std::vector<fs::path>& paths, const WorkerOutput& output) {
  for (std::size_t begin = 0; begin < paths.size(); begin += kMostGoneAtOnce) {
    json::array gone;
    for (std::size_t i = begin; i < std::min(paths.size(), begin + kMostGoneAtOnce); ++i) {
      gone.emplace_back(paths[i].string());
    }
    output.send({{"gone", std::move(gone)}});
  }
}

// Deletes what retention lets go of: never fewer than two steps stay. What is gone.
std::vector<fs::path> retain(const checkpoint::FileView& view, const Start& start,
                             const Order& order) {
  const auto selection =
      checkpoint::newest_valid(view, roots_of(view, start, order), select_options(start, order));
  std::vector<fs::path> gone;
  for (const checkpoint::Candidate& candidate : checkpoint::to_delete(
           selection.all, static_cast<std::size_t>(order.checkpoint.keep), start.key.epoch)) {
    if (candidate.found.top) {
      continue;  // the folder holds other checkpoints too
    }
    const Status removed = checkpoint::remove_tree(candidate.found.path);
    for (const std::string& name : candidate.found.companions) {
      (void)checkpoint::remove_tree(candidate.found.path.parent_path() / name);
    }
    if (removed.ok()) {
      gone.push_back(candidate.found.path);
    }
  }
  return gone;
}

}  // namespace

void watch_checkpoints(const Start& start, const Order& order, const std::string& resumed_from,
                       const WorkerOutput& output) {
  const checkpoint::PosixFileView view;
  const bool users_own = !order.checkpoint.path.empty();
  const checkpoint::Root root{
      users_own ? fs::path(order.checkpoint.path) : attempt_folder(start, order), start.key.epoch,
      users_own};
  checkpoint::WatchOptions options;
  options.marker = order.checkpoint.marker;
  checkpoint::CheckpointWatcher watcher(view, root, options);
  bool told_overwriting = false;
  std::optional<checkpoint::StateOf> brought;
  if (const auto takeover = checkpoint::read_take_over(view, attempt_folder(start, order));
      takeover && takeover->path == resumed_from) {
    brought = takeover->state;
  }
  for (bool goes_on = true;;) {
    const Now begin = now();
    auto polled = watcher.poll(begin);
    if (polled.ok()) {
      for (const checkpoint::NewCheckpoint& fresh : polled.value().complete) {
        // What was brought forward was not written by this attempt; a save under its name was.
        if (fresh.found.path == resumed_from) {
          const checkpoint::StateOf state{fresh.verdict.size, fresh.verdict.newest_nanos};
          if (!brought) {
            brought = state;
          }
          if (*brought == state) {
            continue;
          }
        }
        report(fresh, output);
        if (!users_own && checkpoint::needs_a_copy(fresh.found)) {
          (void)checkpoint::keep_copy_of_last_valid(view, fresh.found, root.path,
                                                    {.now = now().wall});
        }
      }
      report_gone(polled.value().gone, output);
      if (!polled.value().complete.empty() && order.checkpoint.keep > 0 &&
          !order.checkpoint.job_dir.empty()) {
        report_gone(retain(view, start, order), output);
      }
      for (const checkpoint::Overwritten& over : polled.value().overwritten) {
        if (over.only && !told_overwriting) {
          told_overwriting = true;
          note("overwrites",
               fmt::format("The script writes over its only checkpoint, {}, in place: a crash in "
                           "mid-write would lose it. Give each save a name of its own.",
                           over.found.path.filename().string()),
               output);
        }
      }
    }
    if (!goes_on) {
      return;  // that was the last look
    }
    // A slow storage is asked more seldom: at most a twentieth of the time.
    const Millis took = now().mono - begin.mono;
    goes_on = output.pause(std::max<Millis>(2000ms, 20 * took));
  }
}

bool has_written_nothing(const Start& start, const Order& order) {
  std::error_code failure;
  return order.checkpoint.path.empty() && fs::is_empty(attempt_folder(start, order), failure) &&
         !failure;
}

void remove_what_is_empty(const Start& start, const Order& order) {
  const fs::path folder = order.checkpoint.job_dir;
  for (std::int32_t epoch = 1; epoch <= start.key.epoch.value(); ++epoch) {
    ::rmdir((folder / fmt::format("e{}", epoch)).c_str());
  }
  ::rmdir(folder.c_str());
}

}  // namespace quad::runner
