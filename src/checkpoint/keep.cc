#include "checkpoint/keep.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <set>
#include <utility>

#include "base/file.h"

namespace quad::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kFewest = 2;  // of which the newest may turn out not to load

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
  std::sort(candidates.begin(), candidates.end(), newer);
  std::set<std::int64_t> stays;
  for (const Candidate& candidate : candidates) {
    if (candidate.verdict.state == State::kComplete && candidate.verdict.step &&
        !candidate.outdated && stays.size() < keep) {
      stays.insert(*candidate.verdict.step);
    }
  }
  std::vector<Candidate> gone;
  for (Candidate& candidate : candidates) {
    const auto& verdict = candidate.verdict;
    if (candidate.root.users_own || candidate.found.kept || candidate.found.relative.empty() ||
        !candidate.found.name.step || !verdict.step || stays.size() < keep) {
      continue;
    }
    const bool old = *verdict.step < *stays.begin();
    const bool finished = verdict.state == State::kComplete ||
                          (verdict.state == State::kIncomplete && candidate.root.epoch < current);
    if (old && finished) {
      gone.push_back(std::move(candidate));
    }
  }
  return gone;
}

}  // namespace quad::checkpoint
