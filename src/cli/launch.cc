#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "base/file.h"
#include "base/text.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/pack.h"
#include "spec/parse.h"

namespace quad::cli {

namespace fs = std::filesystem;

namespace {

struct LaunchOptions {
  std::vector<std::string> entrypoint;
  std::string name;
  std::string gpus, cpus, memory, workdir, infra, image_id, disk_size;
  int num_nodes = 0;
  int priority = 0;
  bool has_priority = false;
  bool use_spot = false;
  bool detach = false;
  bool dryrun = false;
  bool yes = false;
  std::vector<std::string> envs, secrets, env_files, secret_files;
  std::string client_key;
};

/// NAME=VALUE, or NAME alone for the caller's own value.
Result<spec::NamedValue> assignment(const std::string& text, std::string_view flag) {
  const std::size_t equals = text.find('=');
  std::string name = text.substr(0, equals);
  if (name.empty()) {
    return error(ErrorCode::kInvalid, fmt::format("{} '{}' has no name; write it as NAME=VALUE", flag, text));
  }
  if (equals != std::string::npos) {
    return spec::NamedValue{std::move(name), text.substr(equals + 1)};
  }
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) {
    return error(ErrorCode::kInvalid, fmt::format("{} {}: there is no such variable here; write {}=VALUE", flag, name, name));
  }
  return spec::NamedValue{std::move(name), value};
}

Result<std::vector<spec::NamedValue>> assignments(const std::vector<std::string>& files,
                                                  const std::vector<std::string>& given, std::string_view flag) {
  std::vector<spec::NamedValue> all;
  for (const std::string& file : files) {
    QUAD_ASSIGN(const std::string text, read_file(file, 1U << 20U));
    QUAD_ASSIGN(auto pairs, spec::parse_env_file(text, [](std::string_view name) -> std::optional<std::string> {
                  const char* value = std::getenv(std::string(name).c_str());
                  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
                }));
    all.insert(all.end(), pairs.begin(), pairs.end());
  }
  for (const std::string& text : given) {
    QUAD_ASSIGN(auto pair, assignment(text, flag));
    all.push_back(std::move(pair));
  }
  return all;
}

json::array to_array(const std::vector<spec::NamedValue>& pairs) {
  json::array array;
  for (const auto& [name, value] : pairs) {
    array.push_back(json::array{name, value});
  }
  return array;
}

void print_problems(const std::vector<spec::Diagnostic>& problems, std::string_view word, const std::string& file) {
  for (const spec::Diagnostic& one : problems) {
    std::string where = file;
    if (one.line > 0) {
      where += fmt::format(":{}:{}", one.line, one.column);
    }
    fmt::print(stderr, "{}: {}: {}{}{}\n", where.empty() ? "quad" : where, word,
               one.key.empty() ? "" : one.key + ": ", one.message, one.hint.empty() ? "" : " (" + one.hint + ")");
  }
}

void print_problems(const json::object& answer, std::string_view member, std::string_view word, const std::string& file) {
  std::vector<spec::Diagnostic> problems;
  if (const auto* array = get_array(answer, member)) {
    for (const json::value& value : *array) {
      if (const auto* one = value.if_object()) {
        problems.push_back({.message = std::string(get_string(*one, "message")),
                            .key = std::string(get_string(*one, "key")),
                            .hint = std::string(get_string(*one, "hint")),
                            .line = static_cast<int>(get_int(*one, "line")),
                            .column = static_cast<int>(get_int(*one, "column"))});
      }
    }
  }
  print_problems(problems, word, file);
}

/// Packs a local source and uploads it; removes the temporary file in any case.
Result<Blob> send(Client& client, const fs::path& source) {
  QUAD_ASSIGN(Blob blob, pack(source));
  const Status sent = client.upload(blob.hash, blob.file);
  std::error_code ignored;
  fs::remove(blob.file, ignored);
  if (!sent.ok()) {
    return sent.error();
  }
  return blob;
}

/// What of a source no job will find, in a few words.
void warn_of_left_out(const Blob& blob, const std::string& key, const std::string& file) {
  if (blob.left_out.empty()) {
    return;
  }
  constexpr std::size_t kShown = 5;
  const std::size_t shown = std::min(blob.left_out.size(), kShown);
  std::string names = fmt::format("{}", fmt::join(blob.left_out.begin(), blob.left_out.begin() + static_cast<std::ptrdiff_t>(shown), ", "));
  if (blob.left_out.size() > shown) {
    names += fmt::format(" and {} more", blob.left_out.size() - shown);
  }
  print_problems({{.message = fmt::format("{}: left out, as only files, folders and links are brought.", names), .key = key}},
                 "warning", file);
}

fs::path local_path(const std::string& text) {
  if (text.starts_with("~/")) {
    const char* home = std::getenv("HOME");
    return fs::path(home == nullptr ? "" : home) / text.substr(2);
  }
  return text;
}

int launch(Program& program, const LaunchOptions& options) {
  json::object body;
  spec::Overrides overrides;
  json::object given;
  const auto put = [&given](std::string_view key, const std::string& text, std::optional<std::string>& slot) {
    if (!text.empty()) {
      given[key] = text;
      slot = text;
    }
  };
  put("name", options.name, overrides.name);
  put("gpus", options.gpus, overrides.gpus);
  put("cpus", options.cpus, overrides.cpus);
  put("memory", options.memory, overrides.memory);
  put("workdir", options.workdir, overrides.workdir);
  put("infra", options.infra, overrides.infra);
  put("image_id", options.image_id, overrides.image_id);
  put("disk_size", options.disk_size, overrides.disk_size);
  if (options.num_nodes > 0) {
    given["num_nodes"] = options.num_nodes;
    overrides.num_nodes = options.num_nodes;
  }
  if (options.has_priority) {
    given["priority"] = options.priority;
    overrides.priority = options.priority;
  }
  auto envs = assignments(options.env_files, options.envs, "--env");
  if (!envs.ok()) {
    return fail(envs.error());
  }
  auto secrets = assignments(options.secret_files, options.secrets, "--secret");
  if (!secrets.ok()) {
    return fail(secrets.error());
  }
  overrides.envs = *envs;
  overrides.secrets = *secrets;
  given["envs"] = to_array(*envs);
  given["secrets"] = to_array(*secrets);

  // One argument that names a file is a task file; anything else is a command.
  std::string file;
  spec::TaskSet set;
  const bool one = options.entrypoint.size() == 1;
  const bool looks_yaml = one && (options.entrypoint[0].ends_with(".yaml") || options.entrypoint[0].ends_with(".yml"));
  if (options.entrypoint.empty()) {
    return fail(error(ErrorCode::kInvalid, "Name a task file, or a command: quad launch 'python train.py'"));
  }
  if (one && (looks_yaml || fs::is_regular_file(options.entrypoint[0]))) {
    file = options.entrypoint[0];
    const auto text = read_file(file, 8U << 20U);
    if (!text.ok()) {
      return fail(text.error());
    }
    set = spec::parse(*text, overrides);
    body["yaml"] = *text;
  } else {
    std::string command;
    for (const std::string& word : options.entrypoint) {
      command += command.empty() ? "" : " ";
      command += one ? word : shell_quote(word);
    }
    set = spec::from_command(command, overrides);
    body["command"] = command;
  }
  if (!set.ok()) {
    print_problems(set.errors, "error", file);
    return kUsage;
  }
  body["overrides"] = std::move(given);
  body["dryrun"] = options.dryrun;
  body["client_key"] = options.client_key.empty() ? random_hex(12) : options.client_key;

  auto client = Client::connect(program.globals);
  if (!client.ok()) {
    return fail(client.error());
  }
  json::object mounts;
  for (const spec::Task& task : set.tasks) {
    if (const auto* workdir = std::get_if<spec::LocalWorkdir>(&task.workdir)) {
      const auto blob = send(*client, local_path(workdir->path));
      if (!blob.ok()) {
        return fail(error(blob.error().code, fmt::format("workdir: {}", blob.error().message)));
      }
      warn_of_left_out(*blob, "workdir", file);
      body["workdir_blob"] = blob->hash;
    }
    for (const spec::FileMount& mount : task.file_mounts) {
      if (mount.kind == spec::FileMount::Kind::kLocal) {
        const auto blob = send(*client, local_path(mount.source));
        if (!blob.ok()) {
          return fail(error(blob.error().code,
                            fmt::format("file_mounts.{}: {}", mount.destination, blob.error().message)));
        }
        warn_of_left_out(*blob, "file_mounts." + mount.destination, file);
        mounts[mount.destination] = json::object{{"blob", blob->hash}, {"is_file", blob->is_file}};
      }
    }
  }
  body["mount_blobs"] = std::move(mounts);
  const auto answer = client->post("/v1/jobs", body);
  if (!answer.ok()) {
    return fail(Error{answer.error().code,
                      (file.empty() ? "" : file + ": ") +
                          (answer.error().where.empty() ? "" : answer.error().where + ": ") + answer.error().message,
                      {}});
  }
  print_problems(*answer, "warnings", "warning", file);
  if (options.dryrun) {
    if (program.globals.json()) {
      print_json(*answer);
    } else {
      fmt::print("This would be accepted as it stands.\n");
    }
    return kOk;
  }
  const auto* jobs = get_array(*answer, "jobs");
  const std::int64_t id = jobs == nullptr || jobs->empty() ? 0 : get_int(jobs->front().as_object(), "id");
  if (program.globals.json()) {
    json::object shown{{"job", id}, {"jobs", *jobs}, {"warnings", answer->at("warnings")}};
    print_json(shown);
    std::fflush(stdout);
  } else {
    fmt::print(stderr, "Job {} submitted.\n", id);
  }
  if (options.detach) {
    if (!program.globals.json()) {
      fmt::print("quad logs {} --follow   # to see its output\n", id);
    }
    return kOk;
  }
  return follow_job(program.globals, *client, id);
}

}  // namespace

void add_launch(CLI::App& app, Program& program) {
  auto options = std::make_shared<LaunchOptions>();
  const auto define = [&](CLI::App& parent) {
    CLI::App* verb = add_verb(parent, program, "launch", "Run a task file, or a command, as a job");
    verb->add_option("entrypoint", options->entrypoint, "A task file, or a command");
    verb->add_option("-n,--name", options->name, "The job's name");
    verb->add_option("--gpus", options->gpus, "GPUs of each node, such as H100:8");
    verb->add_option("--cpus", options->cpus, "CPUs of each node, such as 4 or 4+");
    verb->add_option("--memory", options->memory, "Memory of each node in GB, such as 32 or 32+");
    verb->add_option("--num-nodes", options->num_nodes, "How many nodes");
    verb->add_option("--workdir", options->workdir, "The folder that becomes ~/sky_workdir");
    verb->add_option("--infra", options->infra, "Where: local, k8s/CONTEXT, …");
    verb->add_option("--image-id", options->image_id, "The image, such as docker:ubuntu:22.04");
    verb->add_option("--disk-size", options->disk_size, "Disk of each node in GB");
    verb->add_option("--priority", options->priority, "-1000 to 1000, higher first")->each([options](const std::string&) {
      options->has_priority = true;
    });
    verb->add_option("--env", options->envs, "NAME=VALUE, or NAME for this shell's value")->allow_extra_args(false);
    verb->add_option("--secret", options->secrets, "The same, never shown again")->allow_extra_args(false);
    verb->add_option("--env-file", options->env_files, "A dotenv file")->allow_extra_args(false);
    verb->add_option("--secret-file", options->secret_files, "A dotenv file of secrets")->allow_extra_args(false);
    verb->add_option("--client-key", options->client_key, "The same key again is the same job");
    verb->add_flag("-d,--detach-run,--detach,--async", options->detach, "Do not wait for the job's end");
    verb->add_flag("--dryrun", options->dryrun, "Only check whether it would be accepted");
    verb->add_flag("-y,--yes", options->yes, "Nothing is asked anyway");
    verb->callback([&program, options] { program.chosen = [&program, options] { return launch(program, *options); }; });
  };
  define(app);
}

}  // namespace quad::cli
