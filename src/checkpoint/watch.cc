#include "checkpoint/watch.h"

#include <algorithm>
#include <utility>

#include "checkpoint/names.h"

namespace quad::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr Millis kRecheck(5000);

std::uint64_t mixed(std::uint64_t hash, std::uint64_t value) {
  hash ^= value + 0x9E3779B97F4A7C15ULL + (hash << 6U) + (hash >> 2U);
  return hash;
}

bool same_series(const Found& a, const Found& b) {
  return series_of(a) == series_of(b);
}

}  // namespace

std::optional<CheckpointWatcher::Fingerprint> CheckpointWatcher::print_of(
    const Found& found) const {
  Fingerprint print;
  const auto add = [&](const FileInfo& info) {
    print.size += info.size;
    ++print.files;
    print.mix =
        mixed(mixed(mixed(print.mix, static_cast<std::uint64_t>(info.mtime_nanos)), info.inode),
              info.size);
  };
  const auto info = view_.stat(found.path);
  if (!info.ok()) {
    return std::nullopt;
  }
  print.inode = info->inode;
  if (info->kind == FileKind::kFolder) {
    const auto tree = read_tree(view_, found.path, options_.limits, !found.top);
    if (!tree.ok()) {
      return std::nullopt;
    }
    for (const TreeFile& file : tree->files) {
      add(file.info);
    }
  } else {
    add(*info);
  }
  for (const std::string& name : found.companions) {
    if (const auto beside = view_.stat(found.path.parent_path() / name); beside.ok()) {
      add(*beside);
    }
  }
  return print;
}

std::optional<Verdict> CheckpointWatcher::previous_of(const Known& known) const {
  const Known* best = nullptr;
  const std::int64_t own = known.found.name.step.value_or(-1);
  // As in a selection: only the last of a series can have files still to come.
  for (const auto& [path, other] : known_) {
    if (other.found.name.step.value_or(-1) > own && same_series(other.found, known.found)) {
      return std::nullopt;
    }
  }
  for (const auto& [path, other] : known_) {
    if (&other == &known || !other.checked || other.verdict.state != State::kComplete ||
        !same_series(other.found, known.found)) {
      continue;
    }
    const std::int64_t step = other.found.name.step.value_or(-1);
    if (step < own && (best == nullptr || step > best->found.name.step.value_or(-1))) {
      best = &other;
    }
  }
  return best == nullptr ? std::nullopt : std::optional(best->verdict);
}

bool CheckpointWatcher::has_other_complete(const Known& known) const {
  return std::any_of(known_.begin(), known_.end(), [&](const auto& entry) {
    return &entry.second != &known && entry.second.checked && !entry.second.overwriting &&
           entry.second.verdict.state == State::kComplete;
  });
}

void CheckpointWatcher::check(Known& known, Now now, WatchReport& report) {
  const bool was_complete = known.checked && known.verdict.state == State::kComplete;
  ValidateOptions checks;
  checks.now = now.wall;
  checks.settle = options_.settle;
  checks.marker = options_.marker;
  checks.limits = options_.limits;
  checks.previous = previous_of(known);
  // What was here before the watch began is judged by its times; the rest by what was seen.
  if (!first_poll_) {
    checks.still_for = now.mono - known.changed;
  }
  const Verdict verdict = validate_found(view_, known.found, checks);
  const auto after = print_of(known.found);
  if (!after || *after != known.print) {
    known.checked = false;  // it changed under the check: the next poll looks again
    if (was_complete || known.overwriting) {
      known.verdict.state = State::kUnknown;
    }
    return;
  }
  known.verdict = verdict;
  known.checked = true;
  known.checked_at = now.mono;
  if (verdict.state != State::kComplete || known.reported) {
    return;
  }
  known.reported = known.ever_reported = true;
  known.overwriting = false;
  const Millis by_files((verdict.newest_nanos - verdict.oldest_nanos) / 1'000'000);
  known.took = std::max(by_files, known.changed - known.first_seen);
  report.complete.push_back(NewCheckpoint{known.found, verdict, known.took});
}

void CheckpointWatcher::look(Found found, Now now, WatchReport& report) {
  const std::string key = found.path.string();
  auto place = known_.find(key);
  if (place != known_.end()) {
    place->second.round = round_;
    // A complete folder that carries its step is not written again: one look at the folder itself
    // is enough.
    Known& known = place->second;
    if (known.checked && known.reported && found.info == known.info && !found.top &&
        found.info.kind == FileKind::kFolder && found.name.step) {
      return;
    }
  }
  const auto print = print_of(found);
  if (!print) {
    return;  // gone since the listing
  }
  if (place == known_.end()) {
    Known fresh;
    fresh.found = std::move(found);
    fresh.info = fresh.found.info;
    fresh.print = *print;
    fresh.first_seen = now.mono;
    fresh.changed = now.mono;
    fresh.round = round_;
    place = known_.emplace(key, std::move(fresh)).first;
    check(place->second, now, report);
    return;
  }
  Known& known = place->second;
  const bool changed = *print != known.print || found.companions != known.found.companions;
  if (!changed) {
    known.info = found.info;
    // What completes one may lie outside it (a tracker file, a later one): looked at again ever
    // more rarely.
    const Millis pause = std::max(kRecheck, (now.mono - known.changed) / 2);
    const bool open =
        !known.checked || known.verdict.state == State::kUnknown ||
        (known.verdict.state == State::kIncomplete && now.mono - known.checked_at >= pause);
    if (open) {
      check(known, now, report);
    }
    return;
  }
  const bool in_place =
      known.reported && found.info.kind == FileKind::kFile && print->inode == known.print.inode;
  const bool was_complete = known.reported && known.checked;
  const bool only = was_complete && !has_other_complete(known);
  if (known.reported) {
    known.first_seen = now.mono;  // a new save begins
  }
  known.print = *print;
  known.found = std::move(found);
  known.info = known.found.info;
  known.changed = now.mono;
  known.reported = false;
  known.checked = false;
  check(known, now, report);
  if (in_place && was_complete) {
    report.overwritten.push_back(
        Overwritten{known.found, only, known.checked && known.verdict.state == State::kIncomplete});
    known.overwriting = known.verdict.state != State::kComplete;
  }
}

Result<WatchReport> CheckpointWatcher::poll(Now now) {
  WatchReport report;
  auto found = find_candidates(view_, root_, options_.marker, options_.limits);
  if (!found.ok()) {
    if (found.error().code == ErrorCode::kNotFound) {
      ++round_;
      forget_what_is_gone(report);
      return report;
    }
    return found.error();
  }
  ++round_;
  std::stable_sort(found->found.begin(), found->found.end(), [](const Found& a, const Found& b) {
    return a.name.step.value_or(-1) < b.name.step.value_or(-1);
  });
  for (Found& one : found->found) {
    if (!one.kept) {
      look(std::move(one), now, report);
    }
  }
  forget_what_is_gone(report);
  first_poll_ = false;
  return report;
}

void CheckpointWatcher::forget_what_is_gone(WatchReport& report) {
  std::erase_if(known_, [&](const auto& entry) {
    const Known& known = entry.second;
    if (known.round == round_) {
      return false;
    }
    // A listing may have been cut short.
    if (known.ever_reported && !view_.stat(known.found.path).ok()) {
      report.gone.push_back(known.found.path);
    }
    return true;
  });
}

Status CheckpointWatcher::baseline(Now now) {
  const auto report = poll(now);
  return report.ok() ? Status() : Status(report.error());
}

std::vector<NewCheckpoint> CheckpointWatcher::known() const {
  std::vector<NewCheckpoint> all;
  for (const auto& [path, known] : known_) {
    all.push_back(NewCheckpoint{known.found, known.verdict, known.took});
  }
  return all;
}

}  // namespace quad::checkpoint
