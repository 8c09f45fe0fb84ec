#include "checkpoint/keep.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "base/file.h"

namespace quad::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kFewest = 2;  // of which the newest may turn out not to load

bool retention_may_see(const Candidate& candidate) {
  return !candidate.root.users_own && !candidate.found.kept && !candidate.found.relative.empty() &&
         candidate.found.name.step && candidate.verdict.step;
}

// The folder, and the name but for every number: one that holds a loss or an epoch beside the step
// would else be a series of its own each time.
std::string retention_series_of(const Found& found) {
  const fs::path relative(found.relative);
  std::string series = relative.parent_path().string() + "/";
  bool in_number = false;
  for (const char c : relative.filename().string()) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit) {
      series += c;
    } else if (!in_number) {
      series += '#';
    }
    in_number = digit;
  }
  return series;
}

// The states that one series has, and which of them stay.
class Series {
 public:
  void add(const Candidate& candidate) {
    Epoch& latest = states_.try_emplace(key_of(candidate), candidate.root.epoch).first->second;
    latest = std::max(latest, candidate.root.epoch);
  }

  void choose(std::size_t keep) {
    std::vector<std::pair<Key, Epoch>> order(states_.begin(), states_.end());
    const auto take = [&] {
      for (std::size_t i = 0; i < std::min(keep, order.size()); ++i) {
        stay_.insert(order[i].first);
        oldest_step_ = std::min(oldest_step_, order[i].first.step);
        oldest_nanos_ = std::min(oldest_nanos_, order[i].first.nanos);
      }
    };
    std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
      return std::tuple(a.first.step, a.first.nanos) > std::tuple(b.first.step, b.first.nanos);
    });
    take();
    std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
      return std::tuple(a.second, a.first.nanos, a.first.step) >
             std::tuple(b.second, b.first.nanos, b.first.step);
    });
    take();
  }

  [[nodiscard]] bool may_go(const Candidate& candidate, Epoch current) const {
    const Key key = key_of(candidate);
    switch (candidate.verdict.state) {
      case State::kComplete:
        return !stay_.contains(key);
      case State::kIncomplete:
        return candidate.root.epoch < current && stay_.size() >= kFewest &&
               key.step < oldest_step_ && key.nanos <= oldest_nanos_;
      case State::kUnknown:
        break;
    }
    return false;
  }

 private:
  struct Key {
    std::int64_t step;
    std::int64_t nanos;
    auto operator<=>(const Key&) const = default;
  };
  static Key key_of(const Candidate& candidate) {
    return {*candidate.verdict.step, candidate.verdict.newest_nanos};
  }

  std::map<Key, Epoch> states_;  // with the latest attempt that holds it
  std::set<Key> stay_;
  std::int64_t oldest_step_ = std::numeric_limits<std::int64_t>::max();
  std::int64_t oldest_nanos_ = std::numeric_limits<std::int64_t>::max();
};

}  // namespace

bool needs_a_copy(const Found& found) {
  return found.info.kind == FileKind::kFile && !found.kept && !found.name.step &&
         !found.name.training_epoch;
}

Result<Kept> keep_copy_of_last_valid(const FileView& view, const Found& found, const fs::path& root,
                                     const KeepOptions& options) {
  const fs::path workshop = root / ".quad/keeping";
  const fs::path target = root / kKeptFolder / found.relative;
  QUAD_TRY(remove_tree(workshop));
  QUAD_TRY(make_folders(workshop));
  QUAD_TRY(make_folders(target.parent_path()));
  Kept kept{target, How::kReflink, 0};
  const auto finish = [&]() -> Status {
    Found copy = found;
    copy.path = workshop / found.path.filename();
    std::vector<std::string> names = found.companions;
    names.push_back(found.path.filename().string());
    for (const std::string& name : names) {
      auto done = copy_tree(found.path.parent_path() / name, workshop / name,
                            CopyOptions{options.max_copy_bytes});
      if (!done.ok()) {
        return done.error();
      }
      kept.bytes_copied += done->bytes;
      kept.how = done->how == How::kCopy ? How::kCopy : kept.how;
    }
    ValidateOptions checks;
    checks.now = options.now;
    checks.settle =
        Millis(0);  // the caller has seen it complete; what is asked is whether the copy is
    const Verdict verdict = validate_found(view, copy, checks);
    if (verdict.state != State::kComplete) {
      return error(ErrorCode::kInvalid, "The copy is not complete: " + verdict.reason);
    }
    for (const std::string& name : names) {
      const fs::path place = target.parent_path() / name;
      if (::rename((workshop / name).c_str(), place.c_str()) != 0) {
        return errno_error(fmt::format("Cannot move {} into its place", shown(place.string())),
                           errno);
      }
    }
    return sync_folder(target.parent_path());
  };
  const Status done = finish();
  (void)remove_tree(workshop);
  if (!done.ok()) {
    return done.error();
  }
  return kept;
}

Status remove_checkpoint(const Found& found) {
  const fs::path folder = found.path.parent_path();
  const fs::path hidden = folder / (".deleting-" + found.path.filename().string());
  QUAD_TRY(remove_tree(hidden));
  if (::rename(found.path.c_str(), hidden.c_str()) != 0 && errno != ENOENT) {
    return errno_error(fmt::format("Cannot remove {}", shown(found.path.string())), errno);
  }
  for (const std::string& name : found.companions) {
    if (facts_of_name(name).step) {  // config.json and the like serve the others too
      QUAD_TRY(remove_tree(folder / name));
    }
  }
  return remove_tree(hidden);
}

std::vector<Candidate> to_delete(std::vector<Candidate> candidates, std::size_t keep,
                                 Epoch current) {
  keep = std::max(keep, kFewest);
  std::map<std::string, Series> all;
  for (const Candidate& candidate : candidates) {
    if (retention_may_see(candidate) && candidate.verdict.state == State::kComplete &&
        !candidate.outdated) {
      all[retention_series_of(candidate.found)].add(candidate);
    }
  }
  for (auto& [name, series] : all) {
    series.choose(keep);
  }
  std::vector<Candidate> gone;
  for (Candidate& candidate : candidates) {
    const auto series = all.find(retention_series_of(candidate.found));
    if (retention_may_see(candidate) && series != all.end() &&
        series->second.may_go(candidate, current)) {
      gone.push_back(std::move(candidate));
    }
  }
  return gone;
}

}  // namespace quad::checkpoint
