// Feeds arbitrary bytes to everything in spec that reads what a user wrote. Beyond crashes and
// sanitizer reports it holds the module to its promises: a file is accepted or has an error that
// says something, what is accepted can be printed, and what was printed as JSON is JSON.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/json.h"
#include "spec/parse.h"

namespace {

void require(bool condition) {
  if (!condition) {
    std::abort();
  }
}

void check(const quad::spec::TaskSet& set) {
  require(set.ok() ? !set.tasks.empty() : !set.errors.front().message.empty() && set.tasks.empty());
  for (const quad::spec::Task& task : set.tasks) {
    require(!task.resources.empty());
    (void)quad::spec::launch_errors(task);
    (void)quad::to_text(quad::json::value(quad::spec::to_json(task, quad::spec::Redact::kYes)));
  }
  (void)quad::to_text(quad::json::value(quad::spec::to_json(set, "fuzz.yaml")));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  check(quad::spec::parse(text, {}));
  quad::spec::Overrides overrides;
  overrides.envs = {{"A", "x"}, {"TOKEN", "y"}};
  overrides.secrets = {{"S", "z"}};
  overrides.cpus = "4+";
  overrides.gpus = "none";
  overrides.infra = "k8s";
  overrides.num_nodes = 2;
  overrides.config = {{"kubernetes.provision_timeout", "5"}};
  overrides.ports = {"8080", "9000-9010"};
  overrides.git_ref = "v1";
  check(quad::spec::parse(text, overrides));
  // What is given on the command line is read as carefully as a file.
  quad::spec::Overrides given;
  const std::string word(text.substr(0, 256));
  given.envs = {{word, word}};
  given.gpus = word;
  given.infra = word;
  given.image_id = word;
  given.local_disk = word;
  given.ports = {word};
  given.git_url = word;
  given.config = {{"", std::string(text)}, {word, word}};
  check(quad::spec::parse("name: a\nrun: b\n", given));
  check(quad::spec::from_command(text, {}));
  (void)quad::spec::parse_env_file(text);
  return 0;
}
