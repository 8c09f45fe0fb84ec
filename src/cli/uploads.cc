#include "cli/uploads.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "cli/output.h"
#include "cli/terminal.h"

namespace quad::cli {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kLarge = 256'000'000;
constexpr std::chrono::milliseconds kUntilShown{1000};
constexpr std::chrono::milliseconds kBetweenDraws{200};

fs::path home_folder() {
  const char* home = std::getenv("HOME");
  return home == nullptr ? "" : home;
}

std::string bytes_text(std::uint64_t bytes) {
  const auto amount = static_cast<double>(bytes);
  return bytes < 1000            ? counted(static_cast<std::int64_t>(bytes), "byte")
         : bytes < 1'000'000     ? fmt::format("{:.0f} kB", amount / 1e3)
         : bytes < 1'000'000'000 ? fmt::format("{:.1f} MB", amount / 1e6)
                                 : fmt::format("{:.1f} GB", amount / 1e9);
}

std::string files_text(std::uint64_t files) {
  return counted(static_cast<std::int64_t>(files), "file");
}

/// The live line of work that goes on: drawn once it has taken a second, on a terminal only.
class Live {
 public:
  Live(std::string what, std::uint64_t total) : what_(std::move(what)), total_(total) {}

  void show(std::uint64_t done) {
    const auto now = std::chrono::steady_clock::now();
    if (!screen_.has_live() || now < next_) {
      return;
    }
    next_ = now + kBetweenDraws;
    screen_.live(
        safe_text("{}: {} of {}", what_, bytes_text(std::min(done, total_)), bytes_text(total_)));
  }

 private:
  Interruption interruption_{""};  // takes the line away
  Screen screen_;
  std::string what_;
  std::uint64_t total_;
  std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::now() + kUntilShown;
};

/// Shows how far a file has been read, while another thread sends it.
class ReadingWatch {
 public:
  ReadingWatch(int file, Live& live)
      : thread_([this, file, &live](const std::stop_token& stop) {
          std::unique_lock lock(mutex_);
          while (!stopped_.wait_for(lock, stop, kBetweenDraws, [] { return false; })) {
            if (stop.stop_requested()) {
              return;
            }
            const off_t at = ::lseek(file, 0, SEEK_CUR);
            live.show(at > 0 ? static_cast<std::uint64_t>(at) : 0);
          }
        }) {}

 private:
  std::mutex mutex_;  // only for waiting: nothing is shared but the file's offset
  std::condition_variable_any stopped_;
  std::jthread thread_;  // last: it uses what is above
};

}  // namespace

fs::path local_path(const std::string& text) {
  return text.starts_with("~/") ? home_folder() / text.substr(2)
         : text == "~"          ? home_folder()
                                : fs::path(text);
}

spec::Diagnostic Uploads::Upload::told(std::string message, std::string hint) const {
  return {.message = std::move(message),
          .key = key,
          .hint = std::move(hint),
          .line = mark.line,
          .column = mark.column};
}

std::optional<spec::Diagnostic> Uploads::Upload::fault() const {
  std::error_code failure;
  const auto status = fs::status(source, failure);
  if (!fs::is_directory(status) && (is_workdir() || !fs::is_regular_file(status))) {
    return told(fmt::format("{} {}", source.string(),
                            !fs::exists(status)
                                ? "is not there; the path counts from the folder you are in"
                            : is_workdir() ? "is not a folder"
                                           : "is neither a folder nor a file"));
  }
  const fs::path place = fs::canonical(source, failure);
  if (!failure && place == place.root_path()) {
    return told("/ is the whole machine, which cannot be brought", "name the folder that is meant");
  }
  if (const Status own = check_not_quads_own(failure ? source : place); !own.ok()) {
    return told(own.error().message);
  }
  return std::nullopt;
}

std::string Uploads::Upload::line() const {
  const Contents& contents = survey.contents;
  std::string line = fmt::format("{}: {}, {}", is_workdir() ? "Workdir" : "Mount " + destination,
                                 files_text(contents.files), bytes_text(contents.bytes));
  const LeftBehind& left = contents.left_behind;
  if (left.largest.empty()) {
    return line;
  }
  const std::string_view more = left.counted ? "" : "more than ";
  line += fmt::format("; left behind {}: {}{} ({}{}): ",
                      left.rules == "git" ? "as git ignores them" : "by " + left.rules, more,
                      files_text(left.files), more, bytes_text(left.bytes));
  std::vector<std::string> names;
  for (const LeftBehind::Part& part : left.largest) {
    names.push_back(part.name);
  }
  line += fmt::format("{}", fmt::join(names, ", "));
  return left.parts > names.size() ? line + ", …" : line;
}

void Uploads::Upload::warn_of_sample(const Sample& sample, std::string_view message,
                                     std::string_view hint,
                                     std::vector<spec::Diagnostic>& warnings) const {
  if (sample.count > 0) {
    warnings.push_back(told(fmt::format("{}: {}", sample.text(), message), std::string(hint)));
  }
}

void Uploads::Upload::warn(std::vector<spec::Diagnostic>& warnings) const {
  const Contents& contents = survey.contents;
  std::error_code failure;
  const fs::path place = fs::canonical(source, failure);
  const fs::path home = fs::canonical(home_folder(), failure);
  if (place == home || (!failure && !home.lexically_relative(place).string().starts_with(".."))) {
    warnings.push_back(told(fmt::format("{} {} your home folder, with all that is private in it",
                                        source.string(), place == home ? "is" : "holds"),
                            "give each project a folder of its own"));
  }
  if (contents.bytes > kLarge) {
    warnings.push_back(
        told(fmt::format("{} is much to send with each launch that finds it changed",
                         bytes_text(contents.bytes)),
             "what a job does not need stays behind when .skyignore or .gitignore names it"));
  }
  if (contents.files == 0 && contents.left_behind.files > 0) {
    warnings.push_back(told("nothing of it goes along, as all of it is ignored",
                            contents.left_behind.rules == ".skyignore"
                                ? ""
                                : "a .skyignore in it is read instead of git's rules"));
  }
  if (!contents.without_git.empty()) {
    warnings.push_back(told(
        fmt::format("git could not be asked what it ignores ({}), so the .gitignore files were "
                    "read without it: tracked files that they name stay behind",
                    contents.without_git)));
  }
  const auto warn_of = [&](const Sample& sample, std::string_view message,
                           std::string_view hint = {}) {
    warn_of_sample(sample, message, hint, warnings);
  };
  warn_of(contents.data_directories,
          "left out, as a Quad server keeps its keys and records there.");
  warn_of(contents.odd, "left out, as only files, folders and links are brought.");
  warn_of(contents.outside, "lead out of the folder, so a job finds only what its node has there.");
  warn_of(contents.dangling, "lead to nothing here.");
  warn_of(survey.windows_scripts,
          "the first line ends as on Windows (CR LF), so the script cannot be started",
          "sed -i 's/\\r$//' FILE");
}

Uploads::Uploads(const spec::TaskSet& set, bool exec) {
  for (const spec::Task& task : set.tasks) {
    if (const auto* workdir = std::get_if<spec::LocalWorkdir>(&task.workdir)) {
      uploads_.push_back({.key = "workdir",
                          .source = local_path(workdir->path),
                          .mark = task.marks.find("workdir")});
    }
    for (const spec::FileMount& mount : task.file_mounts) {
      if (mount.kind == spec::FileMount::Kind::kLocal && !exec) {
        const std::string key = "file_mounts." + mount.destination;
        uploads_.push_back({.key = key,
                            .destination = mount.destination,
                            .source = local_path(mount.source),
                            .mark = task.marks.find(key)});
      }
    }
  }
}

std::vector<spec::Diagnostic> Uploads::faults() const {
  std::vector<spec::Diagnostic> faults;
  for (const Upload& upload : uploads_) {
    if (auto fault = upload.fault()) {
      faults.push_back(std::move(*fault));
    }
  }
  return faults;
}

Status Uploads::survey() {
  for (Upload& upload : uploads_) {
    auto found = cli::survey(upload.source);
    if (!found.ok()) {
      return error(found.error().code, fmt::format("{}: {}", upload.key, found.error().message));
    }
    upload.survey = std::move(*found);
  }
  return {};
}

std::vector<std::string> Uploads::lines() const {
  std::vector<std::string> lines;
  for (const Upload& upload : uploads_) {
    lines.push_back(upload.line());
  }
  return lines;
}

std::vector<spec::Diagnostic> Uploads::warnings() const {
  std::vector<spec::Diagnostic> warnings;
  for (const Upload& upload : uploads_) {
    upload.warn(warnings);
  }
  return warnings;
}

json::array Uploads::to_json() const {
  json::array all;
  for (const Upload& upload : uploads_) {
    const Contents& contents = upload.survey.contents;
    json::array largest;
    for (const LeftBehind::Part& part : contents.left_behind.largest) {
      largest.push_back({{"name", valid_utf8(part.name)}, {"bytes", part.bytes}});
    }
    all.push_back({{"key", upload.key},
                   {"source", valid_utf8(upload.source.string())},
                   {"files", contents.files},
                   {"bytes", contents.bytes},
                   {"left_behind", json::object{{"rules", contents.left_behind.rules},
                                                {"files", contents.left_behind.files},
                                                {"bytes", contents.left_behind.bytes},
                                                {"counted", contents.left_behind.counted},
                                                {"largest", std::move(largest)}}}});
  }
  return all;
}

Result<std::vector<spec::Diagnostic>> Uploads::send(Client& client, json::object& body) {
  std::vector<spec::Diagnostic> warnings;
  json::object mounts;
  for (Upload& upload : uploads_) {
    const auto run = [&]() -> Result<Blob> {
      const std::string name = upload.is_workdir() ? "the workdir" : upload.destination;
      std::optional<Live> live(std::in_place, "Packing " + name, upload.survey.contents.bytes);
      QUAD_ASSIGN(Blob blob, pack(upload.source, [&](std::uint64_t bytes) { live->show(bytes); }));
      live.reset();
      live.emplace("Sending " + name, blob.bytes);
      const ReadingWatch watch(blob.file.get(), *live);
      QUAD_TRY(client.upload(blob.hash, blob.file.get()));
      return blob;
    };
    auto blob = run();
    if (!blob.ok()) {
      return error(blob.error().code, fmt::format("{}: {}", upload.key, blob.error().message));
    }
    upload.warn_of_sample(blob->contents.vanished,
                          "left out, as they vanished while they were read.", "", warnings);
    upload.warn_of_sample(blob->shrunk, "became shorter while they were read, and end in zeros.",
                          "", warnings);
    if (upload.is_workdir()) {
      body["workdir_blob"] = blob->hash;
    } else {
      mounts[upload.destination] = json::object{{"blob", blob->hash}, {"is_file", blob->is_file}};
    }
  }
  body["mount_blobs"] = std::move(mounts);
  return warnings;
}

}  // namespace quad::cli
