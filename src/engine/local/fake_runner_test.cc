// The runner of the local engine's tests, and what test_bench.h declares. Before main(), a process
// of this program that was started as `PROGRAM FOLDER` becomes such a runner.

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <random>

#include "base/json.h"
#include "base/text.h"
#include "engine/local/process.h"
#include "engine/local/rank_folder.h"
#include "engine/local/test_bench.h"

namespace quad::engine::test {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void wait_forever() {
  for (;;) {
    ::pause();
  }
}

struct FakeRunner {
  fs::path folder;
  std::string key;
  std::string word;

  void say(const std::string& what) const {
    const fs::path mouth = folder.parent_path().parent_path().parent_path() / "said";
    const UniqueFd fd(::open(mouth.c_str(), O_WRONLY | O_CLOEXEC));
    (void)write_all(fd.get(), fmt::format("{} {} {}\n", key, ::getpid(), what));
  }

  [[noreturn]] void run() const {
    // As the protocol asks of every runner; the lock lasts as long as the process.
    const int lock = ::open((folder / "runner.pid").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (::flock(lock, LOCK_EX | LOCK_NB) != 0) {
      say("second");
      ::_exit(1);
    }
    if (word == "end") {
      const std::string result = R"({"how": "exited", "code": 3, "by_quad": false,
        "out_of_memory": false, "in_setup": true, "detail": "it said so", "at_ms": 1234})";
      (void)write_file_atomically(folder / "result.json", result);
      ::_exit(0);
    }
    if (word == "vanish") {
      ::_exit(9);
    }
    if (word == "family") {
      // A child below it, and one that has left its tree and its session.
      if (::fork() == 0) {
        say("child");
        wait_forever();
      }
      if (::fork() == 0) {
        ::setsid();
        if (::fork() == 0) {
          say("stray");
          wait_forever();
        }
        ::_exit(0);
      }
    }
    if (word == "spawn") {
      // Always somewhere in the middle of a fork.
      ::signal(SIGCHLD, SIG_IGN);
      say("up");
      for (;;) {
        if (::fork() == 0) {
          ::usleep(500);
          ::_exit(0);
        }
        ::usleep(100);
      }
    }
    if (word == "environment") {
      say(std::getenv("HIDDEN") == nullptr ? "clean" : "leaky");
    }
    say(word == "files" ? list_files() : "up");
    wait_forever();
  }

  // The numbers of its open files, and whether it leads a session.
  std::string list_files() const {
    std::string open;
    for (int fd = 0; fd < 1024; ++fd) {
      // The lock on runner.pid is its own.
      if (::fcntl(fd, F_GETFD) >= 0 && (::fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0) {
        open += fmt::format("{},", fd);
      }
    }
    return open + (::getsid(0) == ::getpid() ? "leader" : "follower");
  }
};

[[gnu::constructor]] void become_fake_runner(int argc, char** argv, char** /*environment*/) {
  if (argc != 2 || argv[1][0] != '/' || ::access(argv[1], F_OK) != 0) {
    return;
  }
  const fs::path folder = argv[1];
  const auto text = read_file(folder / "start.json");
  const auto start = text.ok() ? parse_json_object(*text) : Result<json::object>(text.error());
  if (!start.ok()) {
    ::_exit(2);
  }
  FakeRunner{folder, folder.filename().string(), std::string(get_string(*start, "token"))}.run();
}

}  // namespace

FewFiles::FewFiles(int more) {
  ::getrlimit(RLIMIT_NOFILE, &before_);
  rlimit few = before_;
  // The kernel gives the lowest number that is free, and none from the limit on.
  for (few.rlim_cur = 0; more > 0 || ::fcntl(static_cast<int>(few.rlim_cur), F_GETFD) >= 0;
       ++few.rlim_cur) {
    more -= ::fcntl(static_cast<int>(few.rlim_cur), F_GETFD) < 0 ? 1 : 0;
  }
  ::setrlimit(RLIMIT_NOFILE, &few);
}

FewFiles::~FewFiles() {
  ::setrlimit(RLIMIT_NOFILE, &before_);
}

Sink Observed::sink() {
  return [this](Observation one) {
    const std::lock_guard lock(mutex_);
    all_.push_back(std::move(one));
    changed_.notify_all();
  };
}

std::optional<RunnerEnded> Observed::ended(const RankKey& key) {
  return wait_for<RunnerEnded>([&](const RunnerEnded& one) { return one.key == key; });
}

void Observed::clear() {
  const std::lock_guard lock(mutex_);
  all_.clear();
}

void Bench::SetUp() {
  std::string pattern = (fs::temp_directory_path() / "quad-engine-XXXXXX").string();
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  data_ = pattern;
  ASSERT_EQ(::mkfifo((data_ / "said").c_str(), 0600), 0);
  // Open for both, so that neither end ever waits for the other or sees it gone.
  mouth_.reset(::open((data_ / "said").c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(mouth_);
}

void Bench::TearDown() {
  engine_.reset();
  // Nothing of a test outlives it: everything that was started has this folder in its environment.
  for (int round = 0; round < 2000; ++round) {
    bool left = false;
    const auto processes = all_processes();
    ASSERT_TRUE(processes.ok()) << processes.error().message;
    for (const Process& process : *processes) {
      const auto environment = read_file(fmt::format("/proc/{}/environ", process.pid), 1U << 20U);
      if (process.pid != ::getpid() && environment.ok() &&
          environment->find("QUAD_RANK_FOLDER=" + data_.string() + "/") != std::string::npos) {
        left = true;
        (void)send_signal(process, SIGKILL);
      }
    }
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    if (!left) {
      break;
    }
    ::usleep(1000);
  }
  std::error_code failure;
  fs::remove_all(data_, failure);
}

LocalEngineOptions Bench::options(int nodes) const {
  LocalEngineOptions options;
  options.data_dir = data_;
  options.runner = fs::read_symlink("/proc/self/exe");
  options.server_url = "unix:" + (data_ / "quad.sock").string();
  options.environment = {"PATH=/usr/bin:/bin"};
  for (int i = 1; i <= nodes; ++i) {
    LocalNode node;
    node.spec.id = NodeId(fmt::format("local-{}", i));
    node.spec.address = fmt::format("127.64.0.{}", i);
    node.spec.capacity = {8'000, 32LL << 30U, 8};
    node.spec.gpu_model = "H100";
    node.spec.pretend = true;
    node.gpu_numbers = {0, 1, 2, 3, 4, 5, 6, 7};
    node.gpu_env = "CUDA_VISIBLE_DEVICES";
    options.nodes.push_back(std::move(node));
  }
  return options;
}

std::vector<Existing> Bench::begin(int nodes) {
  engine_.reset();
  seen_.clear();
  engine_ = std::make_unique<LocalEngine>(options(nodes));
  auto begun = engine_->begin(seen_.sink());
  EXPECT_TRUE(begun.ok()) << (begun.ok() ? "" : begun.error().message);
  return begun.ok() ? std::move(begun->at(0).existing) : std::vector<Existing>();
}

RankKey Bench::key(std::int64_t job, std::int32_t epoch, std::int32_t rank) {
  return {JobId(job), Epoch(epoch), Rank(rank)};
}

StartOrder Bench::order(const RankKey& key, const std::string& word, int node) {
  StartOrder order;
  order.key = key;
  order.holding.node = NodeId(fmt::format("local-{}", node));
  order.holding.amount = {1'000, 1LL << 30U, 2};
  order.holding.gpu_indices = {2, 3};
  order.token = word;
  return order;
}

fs::path Bench::folder(const RankKey& key, int node) const {
  return data_ / "nodes" / fmt::format("local-{}", node) / to_string(key);
}

Said Bench::hear() {
  for (;;) {
    if (const std::size_t end = heard_.find('\n'); end != std::string::npos) {
      const std::string line = heard_.substr(0, end);
      heard_.erase(0, end + 1);
      const auto parts = split(line, ' ');
      return {std::string(parts[0]), std::stoi(std::string(parts[1])), std::string(parts[2])};
    }
    pollfd wait{mouth_.get(), POLLIN, 0};
    if (::poll(&wait, 1, 60'000) <= 0) {
      ADD_FAILURE() << "no runner said anything for 60 s";
      return {};
    }
    char piece[4096];
    const ssize_t got = ::read(mouth_.get(), piece, sizeof piece);
    heard_.append(piece, got > 0 ? static_cast<std::size_t>(got) : 0);
  }
}

std::map<std::string, pid_t> Bench::start_family(const RankKey& key) {
  engine_->start(order(key, "family"));
  std::map<std::string, pid_t> family;
  for (int i = 0; i < 3; ++i) {
    const Said said = hear();
    family[said.word] = said.pid;
  }
  return family;
}

void Bench::expect_going_on(const std::map<std::string, pid_t>& family) {
  for (const auto& [word, pid] : family) {
    for (int i = 0; i < 5000 && stands_still(pid); ++i) {
      ::usleep(1000);
    }
    EXPECT_FALSE(stands_still(pid)) << word;
  }
}

void Bench::let_beats_pass(std::size_t count) {
  const auto beats = [&] {
    return seen_.count<NodeSeen>([](const NodeSeen& one) { return one.node.value() == "local-2"; });
  };
  const std::size_t before = beats();
  while (beats() < before + count) {
    ::usleep(1000);
  }
}

bool Bench::lives(pid_t pid) {
  const auto process = find_process(pid).value();
  return process && !process->dead();
}

bool Bench::stands_still(pid_t pid) {
  const auto process = find_process(pid).value();
  return process && process->stopped();
}

}  // namespace quad::engine::test
