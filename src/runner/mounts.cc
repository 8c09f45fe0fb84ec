#include "runner/mounts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/text.h"
#include "runner/blob_door.h"
#include "runner/brought.h"
#include "runner/git.h"
#include "runner/http_get.h"
#include "runner/room.h"
#include "runner/unpack.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

constexpr int kHttpAttempts = 5;

std::string replaced(std::string text, std::string_view what, std::string_view by) {
  for (std::size_t at = what.empty() ? std::string::npos : text.find(what); at != std::string::npos;
       at = text.find(what, at)) {
    text.replace(at, what.size(), by);
    at += by.size();
  }
  return text;
}

// Addresses may hold secrets, and what failed is told to everybody who may see the job.
std::string without_secrets(std::string text, const Order& order) {
  for (const Variable& secret : order.secrets) {
    text = replaced(std::move(text), secret.value, fmt::format("<{}>", secret.name));
  }
  return text;
}

Status prefixed(std::string_view dst, const Status& status, const Order& order,
                const fs::path& home) {
  if (status.ok()) {
    return status;
  }
  Error failure = status.error();
  failure.message =
      without_secrets(fmt::format("The mount {} cannot be brought: {}", dst,
                                  replaced(std::move(failure.message), home.native() + "/", "~/")),
                      order);
  return failure;
}

Result<UniqueFd> open_parent(const fs::path& place) {
  UniqueFd fd(::open(place.parent_path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  return fd ? Result<UniqueFd>(std::move(fd))
            : errno_error(fmt::format("Cannot open the folder {}", place.parent_path().string()),
                          errno);
}

bool is_folder(const fs::path& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

// The folders above `place`. A file that was itself brought as a mount gives way to one.
Status make_parents(const fs::path& place, int lists, std::string_view key) {
  const fs::path parent = place.parent_path();
  for (fs::path at = parent; at.has_relative_path(); at = at.parent_path()) {
    struct stat info {};
    if (::lstat(at.c_str(), &info) != 0 || is_folder(at)) {
      continue;
    }
    QUAD_ASSIGN(Brought memory, Brought::open(lists, at, key, at.string()));
    if (!memory.was_brought("", Fact::Kind::kFile) || memory.was_brought_now("")) {
      return error(ErrorCode::kExists,
                   fmt::format("{} is a file there; remove it, and try again", at.string()));
    }
    QUAD_ASSIGN(const UniqueFd above, open_parent(at));
    QUAD_TRY(memory.expect(above.get(), at.filename().string(), "", Fact::folder()));
    QUAD_TRY(memory.finish());
    break;
  }
  return make_folders(parent);
}

// The folder that `place` is to be, or leads to.
Status make_place(const fs::path& place, Brought& memory) {
  if (is_folder(place)) {
    return memory.know("", Fact::folder());
  }
  QUAD_ASSIGN(const UniqueFd above, open_parent(place));
  QUAD_TRY(memory.expect(above.get(), place.filename().string(), "", Fact::folder()));
  return make_folders(place);
}

// A blob's bytes on their way to be unpacked, and whether they are what its name says.
class CheckedSource {
 public:
  explicit CheckedSource(BlobDoor& door) : door_(door) {
    EVP_DigestInit_ex(digest_.get(), EVP_sha256(), nullptr);
  }

  /// Waits for its first bytes, which read() gives again.
  Status begin() {
    QUAD_ASSIGN(first_, door_.read());
    has_first_ = true;
    return {};
  }

  Result<std::string_view> read() {
    auto piece = std::exchange(has_first_, false) ? Result<std::string_view>(first_) : door_.read();
    if (piece.ok()) {
      EVP_DigestUpdate(digest_.get(), piece.value().data(), piece.value().size());
    }
    return piece;
  }

  /// Reads what is left of it.
  Result<bool> is(std::string_view hash) {
    for (;;) {
      QUAD_ASSIGN(const std::string_view piece, read());
      if (piece.empty()) {
        break;
      }
    }
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    EVP_DigestFinal_ex(digest_.get(), sum, &size);
    return to_hex({reinterpret_cast<const char*>(sum), size}) == hash;
  }

 private:
  BlobDoor& door_;
  std::string_view first_;
  bool has_first_ = false;
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> digest_{EVP_MD_CTX_new(),
                                                                  &EVP_MD_CTX_free};
};

Status bring_blob(const Mount& mount, const fs::path& place, const Bringing& with,
                  Brought& memory) {
  BlobDoor door(with.blobs);
  QUAD_TRY(door.ask(mount.blob));
  CheckedSource checked(door);
  const ByteSource source = [&] { return checked.read(); };
  // Nothing is made before it is known that there is something to bring.
  QUAD_TRY(checked.begin());
  if (!mount.is_file) {
    QUAD_TRY(make_place(place, memory));
  }
  const UnpackOptions options{.memory = &memory, .keeps_room = true};
  const auto unpacked =
      mount.is_file ? unpack_file(source, place, options) : unpack_tree(source, place, options);
  if (unpacked.ok() || unpacked.error().code == ErrorCode::kInvalid) {
    QUAD_ASSIGN(const bool sound, checked.is(mount.blob));
    if (!sound) {
      return error(ErrorCode::kInvalid,
                   "the server's copy of it is damaged; launch it again, which uploads it anew");
    }
  }
  if (!unpacked.ok() && unpacked.error().code == ErrorCode::kExhausted) {
    memory.undo();  // half of it would keep the disk full
  }
  return unpacked.ok() ? Status() : Status(unpacked.error());
}

Status take_http(const Mount& mount, HttpGet& get, int fd) {
  Room room;
  room.watch(fd);
  for (;;) {
    auto piece = get.read();
    if (!piece.ok()) {
      return error(piece.error().code, fmt::format("{}: {}", mount.url, piece.error().message));
    }
    if (piece.value().empty()) {
      return {};
    }
    QUAD_TRY(room.take(piece.value().size()));
    QUAD_TRY(write_all(fd, piece.value()));
  }
}

Status bring_http(const Mount& mount, const fs::path& place, Brought& memory) {
  QUAD_ASSIGN(GetRequest request, request_for(mount.url));
  request.max_redirects = 10;
  HttpGet get;
  if (auto opened = get.open(request); !opened.ok()) {
    return error(opened.error().code, fmt::format("{}: {}", mount.url, opened.error().message));
  }
  QUAD_ASSIGN(const UniqueFd folder, open_parent(place));
  const std::string name = place.filename().string();
  const std::string& temporary = memory.temporary();
  const UniqueFd fd(::openat(folder.get(), temporary.c_str(),
                             O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644));
  if (!fd) {
    return errno_error(fmt::format("Cannot create {}", place.string()), errno);
  }
  const Status taken = take_http(mount, get, fd.get());
  Status brought = taken;
  if (taken.ok()) {
    const auto fact = fact_at(folder.get(), temporary);
    brought = fact.ok() ? memory.expect(folder.get(), name, "", *fact) : Status(fact.error());
  }
  if (brought.ok() &&
      ::renameat(folder.get(), temporary.c_str(), folder.get(), name.c_str()) != 0) {
    brought = errno_error(fmt::format("Cannot create {}", place.string()), errno);
  }
  if (!brought.ok()) {
    ::unlinkat(folder.get(), temporary.c_str(), 0);
  }
  return brought;
}

}  // namespace

Result<fs::path> place_of(std::string_view dst, const fs::path& home) {
  fs::path place;
  if (dst == "~" || dst.starts_with("~/")) {
    place = home / fs::path(dst.substr(std::min<std::size_t>(2, dst.size()))).relative_path();
  } else if (dst.starts_with('/')) {
    place = fs::path(dst);
  } else {
    place = home / "sky_workdir" / fs::path(dst);
  }
  for (const fs::path& part : place) {
    if (part == "..") {
      return error(ErrorCode::kInvalid,
                   fmt::format("The mount {} has \"..\" in its path, which is not allowed", dst));
    }
  }
  place = place.lexically_normal();
  if (!place.has_filename()) {
    place = place.parent_path();
  }
  return place;
}

std::vector<Mount> outer_first(std::vector<Mount> mounts, const fs::path& home) {
  const auto depth = [&home](const Mount& mount) {
    const auto place = place_of(mount.dst, home);
    return place.ok() ? std::distance(place->begin(), place->end()) : 0;
  };
  std::stable_sort(mounts.begin(), mounts.end(),
                   [&](const Mount& one, const Mount& other) { return depth(one) < depth(other); });
  return mounts;
}

namespace {

Status bring_to(const fs::path& place, const Mount& mount, const Order& order, const Bringing& with,
                std::vector<std::string>& notes) {
  QUAD_TRY(make_parents(place, with.lists, with.key));
  // As people write it; a relative one lies in the workdir.
  const bool is_whole = mount.dst.starts_with('/') || mount.dst.starts_with('~');
  QUAD_ASSIGN(Brought memory,
              Brought::open(with.lists, place, with.key,
                            is_whole ? mount.dst : fmt::format("~/sky_workdir/{}", mount.dst)));
  switch (mount.kind) {
    case Mount::Kind::kBlob:
      QUAD_TRY(bring_blob(mount, place, with, memory));
      break;
    case Mount::Kind::kHttp:
      QUAD_TRY(bring_http(mount, place, memory));
      break;
    case Mount::Kind::kGit:
      QUAD_TRY(make_place(place, memory));
      QUAD_TRY(bring_git(mount, order, place, memory, notes));
      break;
  }
  QUAD_TRY(memory.finish());
  if (std::string story = memory.story(); !story.empty()) {
    notes.push_back(std::move(story));
  }
  return {};
}

}  // namespace

Status bring(const Mount& mount, const Order& order, const Bringing& with,
             std::vector<std::string>& notes) {
  QUAD_ASSIGN(const fs::path place, place_of(mount.dst, with.home));
  // A server that is away is no reason to fail: it is waited for, as long as it takes.
  const int most = mount.kind == Mount::Kind::kBlob   ? std::numeric_limits<int>::max()
                   : mount.kind == Mount::Kind::kHttp ? kHttpAttempts
                                                      : 1;
  for (int attempt = 1;; ++attempt) {
    const Status brought = bring_to(place, mount, order, with, notes);
    if (brought.ok() || brought.error().code != ErrorCode::kUnavailable || attempt >= most) {
      return prefixed(mount.dst, brought, order, with.home);
    }
    ::poll(nullptr, 0, std::min(10'000, 100 << std::min(attempt, 7)));
  }
}

void bring_all(const Order& order, const Bringing& with, const WorkerOutput& output) {
  for (const Mount& mount : outer_first(order.mounts, with.home)) {
    std::vector<std::string> notes;
    const Status brought = bring(mount, order, with, notes);
    for (const std::string& note : notes) {
      output.send({{"note", without_secrets(note, order)}});
    }
    if (!brought.ok()) {
      output.send({{"error", brought.error().message}});
      return;
    }
  }
  output.send({{"fetched", true}});
}

}  // namespace quad::runner
