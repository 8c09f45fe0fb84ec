#include "checkpoint/select.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "base/text.h"
#include "checkpoint/take_over.h"

namespace quad::checkpoint {
namespace {

namespace fs = std::filesystem;

// The same file under two names in one root ("last.ckpt" as a link to a step's file) counts once,
// under the name that says more.
void drop_aliases(std::vector<Found>& found) {
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::size_t> seen;
  std::vector<Found> unique;
  for (Found& one : found) {
    const auto key = std::pair(one.info.device, one.info.inode);
    const auto [place, fresh] = seen.emplace(key, unique.size());
    if (fresh || one.info.inode == 0) {
      unique.push_back(std::move(one));
      continue;
    }
    Found& other = unique[place->second];
    const auto worth = [](const Found& item) {
      return std::tuple(!item.kept, item.name.step.has_value(), !item.info.link);
    };
    if (worth(one) > worth(other)) {
      other = std::move(one);
    }
  }
  found = std::move(unique);
}

}  // namespace

bool newer(const Candidate& a, const Candidate& b) {
  const auto key = [](const Candidate& item) {
    const bool stepped = item.verdict.step.has_value();
    // A kept copy is the same moment as what it was copied from, and stands behind it.
    return std::tuple(stepped, stepped ? *item.verdict.step : 0,
                      stepped ? 0 : item.verdict.training_epoch.value_or(-1),
                      item.root.epoch.value(), stepped ? 0 : item.verdict.newest_nanos,
                      item.found.name.step.has_value(), !item.found.kept);
  };
  const auto first = key(a);
  const auto second = key(b);
  if (first != second) {
    return first > second;
  }
  return a.found.path < b.found.path;
}

std::vector<Candidate> validate_all(const FileView& view, const Root& root,
                                    std::vector<Found> found, const ValidateOptions& options) {
  std::stable_sort(found.begin(), found.end(), [](const Found& a, const Found& b) {
    return std::tuple(a.name.step.value_or(-1), a.name.training_epoch.value_or(-1)) <
           std::tuple(b.name.step.value_or(-1), b.name.training_epoch.value_or(-1));
  });
  std::map<std::string, std::size_t> left;
  for (const Found& one : found) {
    ++left[series_of(one)];
  }
  std::map<std::string, Verdict> previous;
  std::vector<Candidate> candidates;
  for (Found& one : found) {
    ValidateOptions own = options;
    const std::string series = series_of(one);
    // Only the last of a series can be missing files that are still to come: the writer had gone on
    // from the others.
    const bool last = --left[series] == 0;
    if (const auto known = previous.find(series); last && known != previous.end()) {
      own.previous = known->second;
    }
    Candidate candidate{std::move(one), root, {}, false};
    candidate.verdict = validate_found(view, candidate.found, own);
    if (candidate.verdict.state == State::kComplete) {
      previous[series] = candidate.verdict;
    }
    candidates.push_back(std::move(candidate));
  }
  return candidates;
}

std::vector<Root> attempt_roots(const FileView& view, const fs::path& job_folder, Epoch current) {
  std::vector<Root> roots;
  const auto listing = view.list(job_folder, 100000);
  for (const std::string& name : listing.ok() ? listing->names : std::vector<std::string>()) {
    if (name.size() < 2 || name[0] != 'e' || name[1] == '0') {
      continue;
    }
    const auto number = parse_number<std::int32_t>(std::string_view(name).substr(1));
    if (number && *number > 0 && *number <= current.value()) {
      roots.push_back(Root{job_folder / name, Epoch(*number), false});
    }
  }
  std::sort(roots.begin(), roots.end(),
            [](const Root& a, const Root& b) { return a.epoch < b.epoch; });
  return roots;
}

Selection newest_valid(const FileView& view, const std::vector<Root>& roots,
                       const SelectOptions& options) {
  Selection selection;
  std::vector<std::pair<Epoch, TakeOver>> takeovers;
  ValidateOptions checks;
  checks.now = options.now;
  checks.settle = options.settle;
  checks.marker = options.marker;
  checks.limits = options.limits;
  for (const Root& root : roots) {
    if (root.epoch > options.current) {
      continue;
    }
    if (auto takeover = root.users_own ? std::nullopt : read_take_over(view, root.path)) {
      takeovers.emplace_back(root.epoch, *takeover);
    }
    auto found = find_candidates(view, root, options.marker, options.limits);
    if (!found.ok()) {
      if (found.error().code != ErrorCode::kNotFound) {
        selection.notes.push_back(found.error().message + ".");
      }
      continue;
    }
    if (found->cut) {
      selection.notes.push_back(fmt::format(
          "{} has more files or deeper folders than Quad looks at.", shown(root.path.string())));
    }
    drop_aliases(found->found);
    auto candidates = validate_all(view, root, std::move(found->found), checks);
    std::move(candidates.begin(), candidates.end(), std::back_inserter(selection.all));
  }
  for (Candidate& candidate : selection.all) {
    for (const auto& [epoch, takeover] : takeovers) {
      // Both the step and the time must say so: times alone change when files are restored from
      // elsewhere.
      const bool beyond =
          !candidate.verdict.step || !takeover.step || *candidate.verdict.step > *takeover.step;
      if (candidate.root.users_own || candidate.root.epoch >= epoch || !beyond ||
          candidate.verdict.newest_nanos <= takeover.at_nanos) {
        continue;
      }
      candidate.outdated = true;
      candidate.verdict.reason =
          fmt::format("It was written by attempt {} after attempt {} had taken over{}.",
                      candidate.root.epoch.value(), epoch.value(),
                      takeover.step ? fmt::format(" at step {}", *takeover.step) : std::string());
      break;
    }
  }
  std::sort(selection.all.begin(), selection.all.end(), newer);
  const auto chosen =
      std::find_if(selection.all.begin(), selection.all.end(), [](const Candidate& candidate) {
        return candidate.verdict.state == State::kComplete && !candidate.outdated;
      });
  for (auto it = selection.all.begin(); it != selection.all.end(); ++it) {
    if (it->verdict.state == State::kComplete && !it->outdated) {
      continue;
    }
    // One without a step cannot be placed in the order when it is cut off; a later file of a later
    // attempt is newer.
    const bool before = it < chosen;
    const bool likely = chosen != selection.all.end() && !it->verdict.step &&
                        it->root.epoch >= chosen->root.epoch &&
                        it->verdict.newest_nanos > chosen->verdict.newest_nanos;
    if (before || likely) {
      selection.passed_over.push_back(*it);
      const auto& settles = it->verdict.settles_at;
      if (settles && !it->outdated && (!selection.settles_at || *settles < *selection.settles_at)) {
        selection.settles_at = settles;
      }
    }
  }
  if (chosen != selection.all.end()) {
    selection.chosen = *chosen;
  }
  return selection;
}

}  // namespace quad::checkpoint
