#include "store/provenance.h"

#include <dirent.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "base/text.h"

namespace quad::store {

namespace {

namespace fs = std::filesystem;

/// In a place: whose it is.
constexpr std::string_view kPlaceFile = ".quad-records";

/// Each name in a folder; none if it cannot be listed. Without a stat of each.
void each_name(const fs::path& folder, const std::function<void(std::string_view)>& visit) {
  const std::unique_ptr<DIR, int (*)(DIR*)> opened(::opendir(folder.c_str()), &::closedir);
  while (const dirent* entry = opened ? ::readdir(opened.get()) : nullptr) {
    visit(entry->d_name);
  }
}

/// The number that is a folder's name, if it can be a job's.
std::int64_t job_number(std::string_view name) {
  constexpr std::size_t kDigits = 9;
  return name.size() > kDigits ? 0 : parse_number(name).value_or(0);
}

/// The number that is the name of what an attempt left: 3 among logs, e3 in the hot tier. Greater
/// than any job has had, it is none: jobs can make folders there themselves, and each attempt that
/// is missing takes its place in the records.
std::int32_t epoch_number(std::string_view name) {
  constexpr std::size_t kDigits = 4;
  if (name.starts_with('e')) {
    name.remove_prefix(1);
  }
  return name.size() > kDigits ? 0 : parse_number<std::int32_t>(name).value_or(0);
}

std::int32_t greatest_epoch_in(const fs::path& job_folder) {
  std::int32_t greatest = 0;
  each_name(job_folder,
            [&](std::string_view name) { greatest = std::max(greatest, epoch_number(name)); });
  return greatest;
}

/// Others may have folders with numbers for names in the hot tier: a job's has one of an attempt.
/// Looks into few, however many there are, as only those count that are greater than all before.
std::int64_t greatest_job_in(const fs::path& folder) {
  std::int64_t greatest = 0;
  each_name(folder, [&](std::string_view name) {
    const std::int64_t job = job_number(name);
    if (job > greatest && greatest_epoch_in(folder / name) > 0) {
      greatest = job;
    }
  });
  return greatest;
}

std::int64_t greatest_job_of_ranks(const fs::path& nodes) {
  std::int64_t greatest = 0;
  each_name(nodes, [&](std::string_view node) {
    if (node.starts_with('.')) {
      return;
    }
    each_name(nodes / node, [&](std::string_view rank) {
      const std::size_t dash = rank.find('-');
      if (dash != std::string_view::npos) {
        greatest = std::max(greatest, job_number(rank.substr(0, dash)));
      }
    });
  });
  return greatest;
}

Place look_at(std::string role, fs::path path, const fs::path& folder) {
  Place place{.role = std::move(role), .path = std::move(path)};
  place.name =
      place.path.parent_path() == folder ? place.path.filename().string() : place.path.string();
  place.last_job = greatest_job_in(place.path);
  if (const auto text = read_regular_file(place.path / kPlaceFile, 256); text.ok()) {
    const std::vector<std::string_view> words = split(trim(*text), ' ');
    place.life = words[0];
    place.generation = words.size() > 1 ? parse_number(words[1]).value_or(0) : 0;
  }
  return place;
}

bool has_bytes(const fs::path& file) {
  std::error_code failure;
  const auto size = fs::file_size(file, failure);
  return !failure && size > 0;
}

/// Compares the database with what stands around it, a step at a time.
class Judge {
 public:
  Judge(const Surroundings& around, const Contents& contents, const std::vector<KeyOnDisk>& keys,
        const std::string& fresh_life)
      : around_(around), contents_(contents), keys_(keys), fresh_life_(fresh_life) {}

  Judgement run() {
    result_.identity = contents_.identity;
    result_.last_job = std::max(contents_.last_job, contents_.identity.lost_job);
    result_.last_revision = std::max(contents_.last_revision, contents_.identity.lost_revision);
    fresh_ = is_new();
    if (fresh_) {
      result_.identity.life = around_.mark ? around_.mark->life : fresh_life_;
    } else if (is_empty()) {
      find_missing();
    } else if (contents_.identity.life.empty()) {
      find_older_version();
    } else {
      compare_with_mark();
    }
    look_for_later_jobs();
    for (const Place& place : around_.places) {
      compare_with(place);
    }
    for (const KeyOnDisk& key : keys_) {
      compare_with(key);
    }
    conclude();
    return std::move(result_);
  }

 private:
  void find(std::string what) { result_.findings.push_back(std::move(what)); }

  [[nodiscard]] bool is_empty() const {
    return contents_.identity.life.empty() && contents_.last_revision == 0;
  }

  /// Nothing was ever recorded here. A mark without an event is of a start that was broken off.
  [[nodiscard]] bool is_new() const {
    const bool marked = around_.mark_damaged || (around_.mark && around_.mark->revision > 0) ||
                        (!around_.has_database && around_.has_log);
    const bool used =
        around_.last_runner > 0 ||
        std::any_of(keys_.begin(), keys_.end(), [](const KeyOnDisk& key) { return key.present; }) ||
        std::any_of(around_.places.begin(), around_.places.end(), [&](const Place& place) {
          const bool own = place.life.empty() || (around_.mark && place.life == around_.mark->life);
          return place.last_job > 0 || !own;
        });
    return is_empty() && !marked && !used;
  }

  void find_missing() {
    find(fmt::format(
        "quad.db is {}{}", around_.has_database ? "empty" : "missing",
        around_.has_log && !around_.has_database ? ", without which its log is nothing" : ""));
    result_.identity.life = fresh_life_;
    for (const Place& place : around_.places) {
      if (!place.life.empty()) {
        result_.identity.life = place.life;
      }
    }
    if (around_.mark) {
      tell_of_mark();
      result_.identity.life = around_.mark->life;
    } else if (around_.mark_damaged) {
      find("records.mark is damaged");
    }
  }

  /// How far the records had got.
  void tell_of_mark() {
    find(fmt::format(
        "quad.db ends with job {} and event {}, where job {} and event {} had been "
        "recorded",
        contents_.last_job, contents_.last_revision, around_.mark->job, around_.mark->revision));
  }

  void find_older_version() {
    result_.identity.life = fresh_life_;
    if (around_.mark_damaged) {
      find("records.mark is damaged");
    } else if (around_.mark) {
      result_.identity.life = around_.mark->life;
      if (around_.mark->revision > 0) {
        find("quad.db is of an older version of Quad than these records were last kept by");
      }
    }
  }

  void compare_with_mark() {
    const Identity& own = contents_.identity;
    if (around_.mark_damaged) {
      find("records.mark, which tells how far they had got, is damaged");
    } else if (!around_.mark) {
      find(
          "records.mark, which tells how far they had got, is missing, as after a backup was put "
          "back");
    } else if (around_.mark->life != own.life) {
      find(fmt::format("quad.db holds other records ({:.8}) than were kept here ({:.8})", own.life,
                       around_.mark->life));
      strange_ = true;
    } else if (around_.mark->job > result_.last_job ||
               around_.mark->revision > result_.last_revision) {
      tell_of_mark();
    } else if (around_.mark->generation > own.generation) {
      find("quad.db is a copy from before records were last taken back");
    } else if (around_.mark->revision < result_.last_revision) {
      result_.notes.push_back(fmt::format(
          "records.mark is {} events behind quad.db, as after a power cut; nothing is lost",
          result_.last_revision - around_.mark->revision));
    }
  }

  void look_for_later_jobs() {
    const auto look = [this](std::string_view where, std::int64_t job) {
      if (job > result_.last_job) {
        find(fmt::format("{} has job {}, and quad.db ends with job {}", where, job,
                         contents_.last_job));
      }
      later_ = std::max(later_, job);
    };
    for (const Place& place : around_.places) {
      look(place.role, place.last_job);
    }
    look("nodes", around_.last_runner);
  }

  void compare_with(const Place& place) {
    const Identity& own = result_.identity;
    const auto recorded = own.places.find(place.role);
    const bool known = recorded != own.places.end();
    if (!place.life.empty() && place.life != own.life) {
      find(fmt::format("{} ({}) is of other records ({:.8})", place.role, place.path.string(),
                       place.life));
      result_.strange.push_back(place);
    } else if (!place.life.empty() && place.generation > own.generation) {
      find(fmt::format("{} is of later records than quad.db", place.role));
    } else if (place.life.empty() && known && recorded->second == place.name) {
      find(
          fmt::format("{} ({}) does not say any more that it is of these records, as when its "
                      "disk is not mounted",
                      place.role, place.path.string()));
    } else if (place.life.empty() && !contents_.identity.life.empty() && place.last_job > 0) {
      find(
          fmt::format("{} ({}) has folders of jobs and does not say that they are of these "
                      "records",
                      place.role, place.path.string()));
    }
    result_.identity.places[place.role] = place.name;
  }

  void compare_with(const KeyOnDisk& key) {
    const auto recorded = contents_.identity.keys.find(key.name);
    // Keys are made right after the records, so there are none yet if a first start was broken off.
    if (!key.present && (contents_.last_revision > 0 || (is_empty() && !fresh_))) {
      find(fmt::format("{} is missing", key.name));
    } else if (key.present && recorded != contents_.identity.keys.end() &&
               recorded->second != key.check) {
      find(fmt::format("{} is not the key of these records", key.name));
    }
    result_.identity.keys[key.name] = key.check;
  }

  void conclude() {
    if (result_.findings.empty()) {
      return;
    }
    std::int64_t latest = result_.identity.generation;
    if (around_.mark) {
      result_.last_job = std::max(result_.last_job, around_.mark->job);
      result_.last_revision = std::max(result_.last_revision, around_.mark->revision);
      latest = std::max(latest, around_.mark->generation);
    }
    for (const Place& place : around_.places) {
      latest = std::max(latest, place.generation);
    }
    result_.last_job = std::max(result_.last_job, later_);
    result_.identity.generation = latest + 1;
    result_.identity.taken_back = strange_ ? TakenBack::kStrange : TakenBack::kBehind;
  }

  const Surroundings& around_;
  const Contents& contents_;
  const std::vector<KeyOnDisk>& keys_;
  const std::string& fresh_life_;
  Judgement result_;
  bool fresh_ = false;
  std::int64_t later_ = 0;
  bool strange_ = false;
};

}  // namespace

Surroundings look_around(const fs::path& folder, const OpenOptions& options) {
  Surroundings around;
  around.has_database = has_bytes(folder / "quad.db");
  around.has_log = has_bytes(folder / "quad.db-wal");
  const auto mark = read_mark(folder);
  around.mark_damaged = !mark.ok();
  around.mark = mark.ok() ? *mark : std::nullopt;
  around.places.push_back(look_at("logs", folder / "logs", folder));
  if (!options.hot.empty()) {
    around.places.push_back(look_at("hot", options.hot, folder));
  }
  around.last_runner = greatest_job_of_ranks(folder / "nodes");
  return around;
}

Judgement judge(const Surroundings& around, const Contents& contents,
                const std::vector<KeyOnDisk>& keys, const std::string& fresh_life) {
  return Judge(around, contents, keys, fresh_life).run();
}

Error refusal(const fs::path& folder, const std::vector<std::string>& findings) {
  return error(
      ErrorCode::kUnavailable,
      fmt::format("The records in {} are not those that were last kept there: {}. Put back what is "
                  "missing; or go on with what is there by quad serve --accept-lost-records, which "
                  "gives no job's number out again",
                  folder.string(), fmt::join(findings, "; ")));
}

Status mark_place(const Place& place, const Identity& identity) {
  if (place.life == identity.life && place.generation == identity.generation) {
    return {};
  }
  QUAD_TRY(make_folders(place.path, 0700));
  return write_file_atomically(place.path / kPlaceFile,
                               fmt::format("{} {}\n", identity.life, identity.generation), 0600);
}

Status set_aside(const Place& place) {
  std::vector<std::string> names;
  each_name(place.path, [&](std::string_view name) {
    if (job_number(name) > 0) {
      names.emplace_back(name);
    }
  });
  const fs::path to = place.path / fmt::format(".of-{:.8}", place.life);
  QUAD_TRY(make_folders(to, 0700));
  for (const std::string& name : names) {
    std::error_code failure;
    fs::rename(place.path / name, to / name, failure);
    if (failure) {
      return errno_error(
          fmt::format("Cannot move {} to {}", (place.path / name).string(), to.string()),
          failure.value());
    }
  }
  return {};
}

Epoch last_epoch_in(const std::vector<fs::path>& places, JobId job) {
  std::int32_t last = 0;
  for (const fs::path& place : places) {
    last = std::max(last, greatest_epoch_in(place / std::to_string(job.value())));
  }
  return Epoch(last);
}

}  // namespace quad::store
