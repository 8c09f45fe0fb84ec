// `file_mounts` and `volumes`.

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "base/text.h"
#include "spec/grammar.h"
#include "spec/letters.h"
#include "spec/readers.h"
#include "spec/task_grammar.h"

namespace quad::spec {

namespace {

constexpr std::string_view kRemoteWorkdir = "~/sky_workdir";

/// The scheme of a URL, or nothing: "s3" of "s3://bucket".
std::string_view scheme_of(std::string_view text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos || colon == 0 || !is_alphanumeric(text[0])) {
    return {};
  }
  const std::string_view scheme = text.substr(0, colon);
  const bool plain = std::all_of(scheme.begin(), scheme.end(), [](char c) {
    return is_alphanumeric(c) || c == '+' || c == '-' || c == '.';
  });
  return plain ? scheme : std::string_view();
}

std::optional<Storage> read_storage(const Node& node, const std::string& path, Issues& issues) {
  if (!check(node, storage_rule(), path, issues, Nulls::kAbsent)) {
    return std::nullopt;
  }
  Storage storage;
  const auto text = [&](std::string_view key) {
    const Node* found = node.find_value(key);
    return found != nullptr ? std::optional(found->text) : std::nullopt;
  };
  storage.name = text("name");
  if (const Node* source = node.find_value("source")) {
    storage.sources_listed = source->is_sequence();
    if (source->is_string()) {
      storage.sources.push_back(source->text);
    }
    for (const Node& item : source->items) {
      storage.sources.push_back(item.text);
    }
  }
  if (const auto store = text("store")) {
    storage.store = to_upper(*store);
  }
  if (const auto mode = text("mode")) {
    storage.mode = to_upper(*mode);
  }
  if (const auto type = text("type")) {
    storage.type = to_upper(*type);
  }
  if (const Node* persistent = node.find_value("persistent")) {
    storage.persistent = persistent->boolean;
  }
  if (const Node* managed = node.find_value("_is_sky_managed")) {
    storage.sky_managed = managed->boolean;
  }
  if (const Node* force = node.find_value("_force_delete")) {
    storage.force_delete = force->boolean;
  }
  storage.bucket_sub_path = text("_bucket_sub_path");

  const auto only_with = [&](std::string_view key, std::string_view mode, Mark mark) {
    issues.fail(join_path(path, key), mark,
                fmt::format("{} is for mode {} only, and the mode here is {}", join_path(path, key),
                            mode, storage.mode));
  };
  if (storage.type && storage.mode != "MOUNT_CACHED") {
    only_with("type", "MOUNT_CACHED", node.find("type")->mark);
  }
  if (const Node* config = node.find_value("config")) {
    if (const Node* cached = config->find_value("mount_cached")) {
      storage.mount_cached = to_json(*cached).as_object();
      if (storage.mode != "MOUNT_CACHED") {
        only_with("config.mount_cached", "MOUNT_CACHED", cached->mark);
      }
    }
    if (const Node* mount = config->find_value("mount")) {
      storage.mount = to_json(*mount).as_object();
      if (storage.mode != "MOUNT") {
        only_with("config.mount", "MOUNT", mount->mark);
      }
    }
  }
  return storage;
}

/// A cloud disk ("store: volume") becomes an entry of resources.volumes.
std::optional<Node> read_disk(const Entry& entry, const std::string& path, Task& task,
                              Issues& issues) {
  const Node& source = entry.value;
  Node disk = Node::make_mapping(source.mark);
  disk.set("path", Node::make_string(entry.key.text, entry.key.mark));
  if (const Node* name = source.find_value("name"); name != nullptr && !name->text.empty()) {
    disk.set("name", *name);
  }
  const Node* persistent = source.find_value("persistent");
  disk.set("auto_delete",
           Node::make_bool(persistent == nullptr || !persistent->boolean, source.mark));
  if (const Node* config = source.find("config")) {
    if (!config->is_mapping()) {
      issues.fail(path + ".config", config->mark, path + ".config must be a mapping");
      return std::nullopt;
    }
    disk.set_all(config->entries);
  }
  if (const Node* from = source.find_value("source")) {
    FileMount mount;
    std::string_view base = entry.key.text;
    while (base.ends_with('/')) {
      base.remove_suffix(1);
    }
    mount.destination = std::string(base) + "/data";
    if (from->is_sequence()) {
      for (const Node& item : from->items) {
        mount.listed_sources.push_back(python_str(item));
      }
    } else {
      mount.source = from->text;
      mount.kind = kind_of_source(mount.source);
    }
    if (!mount.source.empty() || !mount.listed_sources.empty()) {
      task.file_mounts.push_back(std::move(mount));
    }
  }
  return disk;
}

void read_storage_mount(const Entry& entry, const std::string& path, Task& task, Issues& issues) {
  const std::string& destination = entry.key.text;
  if (destination.empty()) {
    issues.fail(path, entry.key.mark, "file_mounts has an empty destination");
    return;
  }
  auto storage = read_storage(entry.value, path, issues);
  if (!storage) {
    return;
  }
  if (destination == kRemoteWorkdir && !std::holds_alternative<NoWorkdir>(task.workdir)) {
    issues.fail(path, entry.key.mark,
                fmt::format("{} is where the workdir goes; mount the bucket elsewhere or leave out "
                            "workdir",
                            kRemoteWorkdir));
  }
  if (is_cloud_url(destination)) {
    issues.fail(path, entry.key.mark,
                fmt::format("the destination {} of a storage mount must be a path, not a URL",
                            shown(destination)));
  }
  FileMount mount;
  mount.destination = destination;
  mount.kind = FileMount::Kind::kStorage;
  mount.storage = std::move(storage);
  task.file_mounts.push_back(std::move(mount));
}

}  // namespace

bool is_cloud_url(std::string_view text) {
  const std::string_view scheme = scheme_of(text);
  std::string_view rest = scheme.empty() ? text : text.substr(scheme.size() + 1);
  if (!rest.starts_with("//")) {
    return false;
  }
  rest.remove_prefix(2);
  return !rest.empty() && std::string_view("/?#").find(rest[0]) == std::string_view::npos;
}

FileMount::Kind kind_of_source(std::string_view source) {
  const std::string_view scheme = scheme_of(source);
  const bool url = is_cloud_url(source);
  if (source.starts_with("git@") ||
      (url && (scheme == "git" || scheme == "ssh" || scheme.starts_with("git+") ||
               source.ends_with(".git")))) {
    return FileMount::Kind::kGit;
  }
  if (!url || scheme == "file") {
    return FileMount::Kind::kLocal;
  }
  return scheme == "http" || scheme == "https" ? FileMount::Kind::kHttp : FileMount::Kind::kBucket;
}

std::vector<Node> read_file_mounts(const Node& node, Task& task, Issues& issues) {
  std::vector<Node> disks;
  for (const Entry& entry : node.entries) {
    const std::string path = join_path("file_mounts", entry.key.text);
    if (entry.value.is_string()) {
      FileMount mount;
      mount.destination = entry.key.text;
      mount.source = entry.value.text;
      mount.kind = kind_of_source(mount.source);
      task.file_mounts.push_back(std::move(mount));
    } else if (!entry.value.is_mapping()) {
      issues.fail(path, entry.value.mark,
                  fmt::format("{} must be a path, a URL or a storage object, not {}", path,
                              shown(entry.value)));
    } else if (const Node* store = entry.value.find("store");
               store != nullptr && store->is_string() && store->text == "volume") {
      if (auto disk = read_disk(entry, path, task, issues)) {
        disks.push_back(std::move(*disk));
      }
    } else {
      read_storage_mount(entry, path, task, issues);
    }
  }
  return disks;
}

void read_volumes(const Node& node, Task& task, Issues& issues) {
  task.volumes_written = to_json(node).as_object();
  for (const Entry& entry : node.entries) {
    Volume volume;
    volume.destination = entry.key.text;
    const std::string path = join_path("volumes", volume.destination);
    const auto text = [&](const Node* from, std::string_view key) -> std::optional<std::string> {
      const Node* found = from != nullptr ? from->find_value(key) : nullptr;
      return found != nullptr ? std::optional(python_str(*found)) : std::nullopt;
    };
    if (entry.value.is_string()) {
      volume.name = entry.value.text;
    } else if (entry.value.is_mapping()) {
      const Node* config = entry.value.find_value("config");
      volume.name = text(&entry.value, "name");
      volume.sub_path = text(&entry.value, "sub_path");
      volume.size = text(&entry.value, "size");
      volume.type = text(&entry.value, "type");
      volume.storage_class = text(config, "storage_class_name");
      volume.access_mode = text(config, "access_mode");
      volume.host_path = text(&entry.value, "host_path");
      if (const Node* labels = entry.value.find_value("labels")) {
        for (const Entry& label : labels->entries) {
          volume.labels.emplace_back(json_key(label.key), python_str(label.value));
        }
      }
    }
    task.volumes.push_back(std::move(volume));
  }
  // SkyPilot looks at volumes only when it launches. Quad says so as soon as it knows.
  std::map<std::string, Mark, std::less<>> marks;
  for (const Entry& entry : node.entries) {
    marks.emplace(join_path("volumes", entry.key.text), entry.value.mark);
  }
  for (const Diagnostic& problem : launch_errors(task)) {
    if (const auto found = marks.find(problem.key); found != marks.end()) {
      issues.warn(problem.key, found->second, problem.message, problem.hint);
    }
  }
}

}  // namespace quad::spec
