#include "cli/copy.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <thread>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/text.h"
#include "cli/clusters.h"
#include "cli/output.h"
#include "cli/session.h"
#include "control/clusters.h"
#include "runner/copy.h"
#include "session/pump.h"

namespace quad::cli {

namespace fs = std::filesystem;

namespace {

constexpr Millis kTick{60'000};

/// One side of the copy on a thread of its own, as reading and writing files blocks. It ends when
/// the pipe to it is closed.
class FileWork {
 public:
  template <typename Work>
  explicit FileWork(Work work)
      : thread_([this, work = std::move(work)]() mutable { status_ = work(); }) {}
  FileWork(const FileWork&) = delete;
  FileWork& operator=(const FileWork&) = delete;
  ~FileWork() { (void)wait(); }
  const Status& wait() {
    if (thread_.joinable()) {
      thread_.join();
    }
    return status_;
  }

 private:
  Status status_;
  std::thread thread_;  // last: it uses what is above
};

class Copy {
 public:
  explicit Copy(ClientCarrier& carrier)
      : pump_(std::make_unique<session::Pump>(carrier, session::kWindow)),
        errors_(::memfd_create("quad-errors", MFD_CLOEXEC)) {
    pump_->watch_over(clock_);
    pump_->on_message = [this](const json::object& message) { take(message); };
  }

  /// Sends `path`, and waits until it is there.
  Status send(const RankPath& to, const fs::path& path, const runner::CopySource& source) {
    json::object begin = to_json(source);
    begin["type"] = "begin";
    begin["kind"] = "copy_to";
    begin["path"] = to.path;
    pump_->say(begin);
    QUAD_ASSIGN(Pipe pipe, make_pipe());
    pump_->attach(0, {std::move(pipe.read), UniqueFd()});
    attach_errors();
    std::vector<std::string> left_out;
    FileWork work([&path, &left_out, fd = std::move(pipe.write)]() mutable {
      const UniqueFd out = std::move(fd);
      return runner::send_copy(path, out.get(), &left_out);
    });
    const Status carried = run();
    pump_.reset();
    // When the other end gives up, this end only sees that nobody reads; when this end does, the
    // other one only sees that there is no more.
    const Status& read = work.wait();
    for (const std::string& folder : left_out) {
      complain("warning: {}: left out, as a Quad server keeps its keys and records there\n",
               folder);
    }
    return !read.ok() && read.error().code != ErrorCode::kUnavailable ? read : carried;
  }

  /// Takes `from` to `place`.
  Status receive(const RankPath& from, const fs::path& place, bool as_folder) {
    pump_->say({{"type", "begin"}, {"kind", "copy_from"}, {"path", from.path}});
    attach_errors();
    QUAD_ASSIGN(Pipe pipe, make_pipe());
    pump_->attach(1, {UniqueFd(), std::move(pipe.write)});
    while (!source_ && !code_) {
      QUAD_TRY(step());
    }
    if (!source_) {
      return ended();
    }
    source_->name = runner::name_of_path(from.path);
    FileWork work([this, &place, as_folder, fd = std::move(pipe.read)]() mutable {
      const UniqueFd in = std::move(fd);
      return runner::receive_copy(runner::read_pieces(in.get()), place, as_folder, *source_);
    });
    Status carried;
    while (carried.ok() && (!code_ || pump_->has(1))) {
      carried = step();
    }
    pump_.reset();  // so that the thread sees an end
    const Status& written = work.wait();
    QUAD_TRY(carried);
    const Status told = ended();
    return written.ok() || has_told() ? told : written;
  }

 private:
  void attach_errors() {
    pump_->attach(2, {UniqueFd(), UniqueFd(::fcntl(errors_.get(), F_DUPFD_CLOEXEC, 3))});
  }

  Status step() {
    std::vector<pollfd> none;
    return pump_->step(none, kTick);
  }

  Status run() {
    while (!code_) {
      QUAD_TRY(step());
    }
    return ended();
  }

  /// Whether the other end has said what went wrong there.
  [[nodiscard]] bool has_told() const {
    return !failure_.empty() || ::lseek(errors_.get(), 0, SEEK_END) > 0;
  }

  /// What the other end's exit code and words come to.
  Status ended() {
    if (code_ == 0) {
      return {};
    }
    std::string told = failure_;
    if (told.empty()) {
      char text[4096];
      const ssize_t got = ::pread(errors_.get(), text, sizeof text, 0);
      told.assign(text, got > 0 ? static_cast<std::size_t>(got) : 0);
    }
    return error(ErrorCode::kIo, told.empty() ? fmt::format("The rank's end of the copy ended "
                                                            "with code {}",
                                                            code_.value_or(1))
                                              : fmt::format("On the rank: {}", trim(told)));
  }

  void take(const json::object& message) {
    const std::string_view type = get_string(message, "type");
    if (type == "begun") {
      source_ = runner::copy_source(message);
    } else if (type == "exit" || type == "failed") {
      code_ = session::exit_code_of(message);
      failure_ = get_string(message, type == "exit" ? "note" : "message");
      if (!failure_.empty() && code_ == 0) {
        code_ = 1;
      }
    }
  }

  const SystemClock clock_;
  std::unique_ptr<session::Pump> pump_;
  UniqueFd errors_;
  std::optional<runner::CopySource> source_;
  std::optional<int> code_;
  std::string failure_;
};

}  // namespace

std::optional<RankPath> parse_rank_path(std::string_view text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    return std::nullopt;
  }
  const std::string_view place = text.substr(0, colon);
  const std::size_t slash = place.find('/');
  RankPath result;
  const std::string_view word = place.substr(0, slash);
  const auto job = parse_number(word);
  const bool named = control::check_cluster_name(word).ok();
  const auto rank = slash == std::string_view::npos ? std::optional<std::int64_t>(0)
                                                    : parse_number(place.substr(slash + 1));
  const bool signed_rank = slash != std::string_view::npos && place.find('-', slash) == slash + 1;
  if (!(named || (job && *job >= 1)) || !rank || signed_rank) {
    return std::nullopt;
  }
  result.job = word;
  result.rank = *rank;
  result.path = text.substr(colon + 1);
  return result;
}

int copy_files(const Globals& globals, const std::string& from, const std::string& to) {
  const auto remote_from = parse_rank_path(from);
  const auto remote_to = parse_rank_path(to);
  if (remote_from.has_value() == remote_to.has_value()) {
    return fail(error(ErrorCode::kInvalid,
                      "One of the two must be on a rank and the other one here: 'quad cp x.txt "
                      "17:data/' or 'quad cp 17/1:log.txt .'; a file here with a colon in its name "
                      "is written ./NAME"));
  }
  const RankPath& remote = remote_from ? *remote_from : *remote_to;
  runner::CopySource source;
  const std::string& local = remote_from ? to : from;
  if (local.empty()) {
    return fail(
        error(ErrorCode::kInvalid, "Name a file or folder here; '.' is the current folder"));
  }
  if (remote_to) {
    auto found = runner::look_at_source(local);
    if (!found.ok()) {
      return fail(error(ErrorCode::kInvalid, found.error().message));
    }
    source = std::move(found).value();
    source.name = runner::name_of_path(local);
  }
  auto client = Client::connect(globals);
  if (!client.ok()) {
    return fail(client.error());
  }
  const auto job = job_named(*client, remote.job);
  if (!job.ok()) {
    return fail(job.error());
  }
  auto carrier = open_session(*client, *job, remote.rank, "copy");
  if (!carrier.ok()) {
    return tell_refused(carrier.error());
  }
  ::signal(SIGPIPE, SIG_IGN);
  Copy copy(**carrier);
  const fs::path here = fs::absolute(local);
  const Status done = remote_to ? copy.send(remote, here, source)
                                : copy.receive(remote, here, local.ends_with('/'));
  if (done.ok()) {
    return kOk;
  }
  return done.error().code == ErrorCode::kUnavailable
             ? tell_broken_off(globals, *job, done.error())
             : fail(error(ErrorCode::kIo, done.error().message));
}

}  // namespace quad::cli
