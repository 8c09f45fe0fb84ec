#include "runner/mounts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <limits>
#include <memory>
#include <vector>

#include "base/file.h"
#include "base/text.h"
#include "runner/http_get.h"
#include "runner/unpack.h"

namespace quad::runner {
namespace {

namespace fs = std::filesystem;

constexpr int kHttpAttempts = 5;

// Addresses may hold secrets, and what failed is told to everybody who may see the job.
std::string without_secrets(std::string text, const Order& order) {
  for (const Variable& secret : order.secrets) {
    const std::string_view value = secret.value;
    for (std::size_t at = value.empty() ? std::string::npos : text.find(value);
         at != std::string::npos; at = text.find(value, at)) {
      const std::string shown = fmt::format("<{}>", secret.name);
      text.replace(at, value.size(), shown);
      at += shown.size();
    }
  }
  return text;
}

Status prefixed(std::string_view dst, const Status& status, const Order& order) {
  if (status.ok()) {
    return status;
  }
  Error failure = status.error();
  failure.message = without_secrets(
      fmt::format("The mount {} cannot be brought: {}", dst, failure.message), order);
  return failure;
}

Status make_parent(const fs::path& path) {
  return make_folders(path.parent_path());
}

// A blob's bytes on their way to be unpacked, and whether they are what its name says.
class CheckedSource {
 public:
  explicit CheckedSource(HttpGet& get) : get_(get) {
    EVP_DigestInit_ex(digest_.get(), EVP_sha256(), nullptr);
  }

  Result<std::string_view> read() {
    auto piece = get_.read();
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
  HttpGet& get_;
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> digest_{EVP_MD_CTX_new(),
                                                                  &EVP_MD_CTX_free};
};

Status bring_blob(const Mount& mount, const fs::path& place, const Start& start) {
  GetRequest request;
  request.server = start.server;
  request.target = "/v1/blobs/" + mount.blob;
  request.token = start.token;
  request.ca = start.ca;
  HttpGet get;
  if (auto opened = get.open(request); !opened.ok()) {
    return opened.error().code != ErrorCode::kNotFound
               ? opened
               : error(ErrorCode::kNotFound,
                       "the server no longer has its copy; launch it again, which uploads it anew");
  }
  CheckedSource checked(get);
  const ByteSource source = [&] { return checked.read(); };
  QUAD_TRY(mount.is_file ? make_parent(place) : make_folders(place));
  const auto unpacked = mount.is_file ? unpack_file(source, place) : unpack_tree(source, place);
  if (unpacked.ok() || unpacked.error().code == ErrorCode::kInvalid) {
    QUAD_ASSIGN(const bool sound, checked.is(mount.blob));
    if (!sound) {
      return error(ErrorCode::kInvalid,
                   "the server's copy of it is damaged; launch it again, which uploads it anew");
    }
  }
  return unpacked.ok() ? Status() : Status(unpacked.error());
}

Status bring_http(const Mount& mount, const fs::path& place) {
  QUAD_ASSIGN(GetRequest request, request_for(mount.url));
  request.max_redirects = 10;
  HttpGet get;
  if (auto opened = get.open(request); !opened.ok()) {
    return error(opened.error().code, fmt::format("{}: {}", mount.url, opened.error().message));
  }
  QUAD_TRY(make_parent(place));
  // A name of its own: on a shared file system another rank may bring the same to the same place at
  // this moment.
  const std::string temporary =
      (place.parent_path() / fmt::format(".quad-{}", random_hex(8))).string();
  UniqueFd fd(
      ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644));
  if (!fd) {
    return errno_error(fmt::format("Cannot create {}", temporary), errno);
  }
  for (;;) {
    auto piece = get.read();
    if (!piece.ok()) {
      ::unlink(temporary.c_str());
      return error(piece.error().code, fmt::format("{}: {}", mount.url, piece.error().message));
    }
    if (auto written = write_all(fd.get(), piece.value()); !written.ok()) {
      ::unlink(temporary.c_str());
      return written;
    }
    if (piece.value().empty()) {
      break;
    }
  }
  if (::rename(temporary.c_str(), place.c_str()) != 0) {
    const Error failure = errno_error(fmt::format("Cannot create {}", place.string()), errno);
    ::unlink(temporary.c_str());
    return failure;
  }
  return {};
}

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t j = 0; j < 3; ++j) {
      group =
          (group << 8U) | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    }
    for (std::size_t j = 0; j < 4; ++j) {
      out += i + j <= bytes.size() ? kDigits[(group >> (18U - 6U * j)) & 63U] : '=';
    }
  }
  return out;
}

std::string_view variable(const Order& order, std::string_view name) {
  std::string_view value;
  for (const auto* list : {&order.envs, &order.secrets}) {
    for (const Variable& candidate : *list) {
      if (candidate.name == name) {
        value = candidate.value;
      }
    }
  }
  return value;
}

// The environment of git: a token goes in by an environment variable that only this host's requests
// use, so that it is neither in an argument nor in the clone's configuration.
std::vector<std::string> git_environment(const Mount& mount, const Order& order,
                                         const fs::path& home) {
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    if (!text.starts_with("HOME=") && !text.starts_with("GIT_")) {
      environment.emplace_back(text);
    }
  }
  environment.push_back("HOME=" + home.string());
  environment.emplace_back("GIT_TERMINAL_PROMPT=0");
  const std::string_view token = variable(order, "GIT_TOKEN");
  if (!token.empty() && mount.url.starts_with("https://")) {
    const std::size_t end = mount.url.find('/', 8);
    environment.emplace_back("GIT_CONFIG_COUNT=1");
    environment.push_back(
        fmt::format("GIT_CONFIG_KEY_0=http.{}/.extraHeader", mount.url.substr(0, end)));
    environment.push_back(fmt::format("GIT_CONFIG_VALUE_0=Authorization: Basic {}",
                                      base64(fmt::format("x-access-token:{}", token))));
  }
  std::string ssh = "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new";
  if (const std::string_view key = variable(order, "GIT_SSH_KEY_PATH"); !key.empty()) {
    ssh += " -o IdentitiesOnly=yes -i " + shell_quote(key);
  }
  environment.push_back("GIT_SSH_COMMAND=" + ssh);
  return environment;
}

// Runs a program to its end; an error carries the last line that it wrote.
Status run_program(const std::vector<std::string>& arguments,
                   const std::vector<std::string>& environment) {
  QUAD_ASSIGN(Pipe pipe, make_pipe());
  std::vector<char*> argv;
  std::vector<char*> envp;
  for (const std::string& argument : arguments) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  for (const std::string& entry : environment) {
    envp.push_back(const_cast<char*>(entry.c_str()));
  }
  argv.push_back(nullptr);
  envp.push_back(nullptr);
  const pid_t child = ::fork();
  if (child < 0) {
    return errno_error("Cannot start a process", errno);
  }
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int null = ::open("/dev/null", O_RDWR);
    ::dup2(null, 0);
    ::dup2(pipe.write.get(), 1);
    ::dup2(pipe.write.get(), 2);
    ::execvpe(argv[0], argv.data(), envp.data());
    ::_exit(127);
  }
  pipe.write.reset();
  std::string output;
  char buffer[4096];
  for (;;) {
    const ssize_t got = ::read(pipe.read.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      break;
    }
    output.append(buffer, static_cast<std::size_t>(got));
    if (output.size() > 65536) {
      output.erase(0, output.size() - 16384);
    }
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    return {};
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127 && output.empty()) {
    return error(ErrorCode::kNotFound,
                 fmt::format("the program {} is not in this image", arguments.front()));
  }
  const std::string_view text = trim(output);
  const std::string_view last = text.substr(text.rfind('\n') + 1);
  const bool stranger = last.find("could not read Username") != std::string_view::npos ||
                        last.find("Authentication failed") != std::string_view::npos;
  return error(ErrorCode::kIo,
               fmt::format("{} says: {}{}", arguments.front(), last,
                           stranger ? "; a private repository needs --secret GIT_TOKEN=…" : ""));
}

Status bring_git(const Mount& mount, const Order& order, const fs::path& place,
                 const fs::path& home) {
  if (mount.url.starts_with('-') || mount.ref.starts_with('-')) {
    return error(ErrorCode::kInvalid, "a git url or ref may not begin with \"-\"");
  }
  const std::vector<std::string> environment = git_environment(mount, order, home);
  std::error_code ignored;
  if (fs::is_directory(place, ignored) && !fs::is_empty(place, ignored)) {
    return error(ErrorCode::kExists, fmt::format("{} is not empty", place.string()));
  }
  QUAD_TRY(make_parent(place));
  std::vector<std::string> clone = {"git", "clone", "--quiet"};
  if (!mount.ref.empty()) {
    clone.emplace_back("--no-checkout");
  }
  clone.insert(clone.end(), {"--", mount.url, place.string()});
  QUAD_TRY(run_program(clone, environment));
  if (mount.ref.empty()) {
    return {};
  }
  const std::vector<std::string> in_place = {"git", "-c", "advice.detachedHead=false", "-C",
                                             place.string()};
  std::vector<std::string> checkout = in_place;
  checkout.insert(checkout.end(), {"checkout", "--quiet", mount.ref, "--"});
  if (run_program(checkout, environment).ok()) {
    return {};
  }
  // Neither branch, tag nor a commit that came with them: refs/pull/7/head, or a commit of no
  // branch.
  std::vector<std::string> fetch = in_place;
  fetch.insert(fetch.end(), {"fetch", "--quiet", "origin", mount.ref});
  QUAD_TRY(run_program(fetch, environment));
  checkout = in_place;
  checkout.insert(checkout.end(), {"checkout", "--quiet", "FETCH_HEAD", "--"});
  return run_program(checkout, environment);
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
  if (!place.has_filename()) {
    place = place.parent_path();
  }
  return place;
}

Status bring(const Mount& mount, const Start& start, const Order& order, const fs::path& home) {
  QUAD_ASSIGN(const fs::path place, place_of(mount.dst, home));
  for (int attempt = 1;; ++attempt) {
    Status brought;
    int most = 1;
    switch (mount.kind) {
      case Mount::Kind::kBlob:
        // A server that is away is no reason to fail: it is waited for, as long as it takes.
        brought = bring_blob(mount, place, start);
        most = std::numeric_limits<int>::max();
        break;
      case Mount::Kind::kHttp:
        brought = bring_http(mount, place);
        most = kHttpAttempts;
        break;
      case Mount::Kind::kGit:
        brought = bring_git(mount, order, place, home);
        break;
    }
    if (brought.ok() || brought.error().code != ErrorCode::kUnavailable || attempt >= most) {
      return prefixed(mount.dst, brought, order);
    }
    ::poll(nullptr, 0, std::min(10'000, 100 << std::min(attempt, 7)));
  }
}

}  // namespace quad::runner
