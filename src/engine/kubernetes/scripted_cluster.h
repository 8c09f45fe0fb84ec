// engine/kubernetes/scripted_cluster.h  (for tests only)
//
// As much of an API server as the engine asks of one, over ScriptedServer: it keeps objects, tells
// their changes to watches, and does whatever fault a test asks for. What a real one does is tested
// on a real one (tests/kubernetes); this is for what no real one does on order.

#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "engine/kubernetes/client/scripted_server.h"
#include "engine/kubernetes/views/lease_view.h"

namespace quad::kubernetes {

class ScriptedCluster {
 public:
  /// Says whether it has answered the request itself.
  using Fault = std::function<bool(const Asked& asked, Conversation& with)>;

  ScriptedCluster()
      : server_([this](const Asked& asked, Conversation& with) { serve(asked, with); }) {}
  ~ScriptedCluster() {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }

  [[nodiscard]] std::string url() const { return server_.url(); }
  [[nodiscard]] std::vector<Asked> asked() { return server_.asked(); }
  /// How many requests of this method had `part` in their target.
  [[nodiscard]] int count(std::string_view method, std::string_view part) {
    int found = 0;
    for (const Asked& one : asked()) {
      found += one.method == method && one.has(part) ? 1 : 0;
    }
    return found;
  }
  void set_fault(Fault fault) {
    const std::lock_guard lock(mutex_);
    fault_ = std::move(fault);
  }

  /// Puts an object, or changes it: "pods", with its name in metadata.
  void put(const std::string& kind, json::object object) {
    const std::lock_guard lock(mutex_);
    store(kind, std::move(object));
  }
  /// Changes the object in place.
  void change(const std::string& kind, const std::string& name,
              const std::function<void(json::object&)>& how) {
    const std::lock_guard lock(mutex_);
    json::object object = objects_.at(kind).at(name);
    how(object);
    store(kind, std::move(object));
  }
  /// `told`: watches hear of it; else only the next list shows it.
  void remove(const std::string& kind, const std::string& name, bool told = true) {
    const std::lock_guard lock(mutex_);
    erase(kind, name, told);
  }
  [[nodiscard]] std::optional<json::object> find(const std::string& kind, const std::string& name) {
    const std::lock_guard lock(mutex_);
    const auto found = objects_[kind].find(name);
    return found == objects_[kind].end() ? std::nullopt : std::optional(found->second);
  }
  /// Ends all watches; those that come with an older version get 410, and must list again.
  void compact() {
    const std::lock_guard lock(mutex_);
    oldest_ = ++version_;
    ++generation_;
    changed_.notify_all();
  }

 private:
  struct Place {
    std::string kind;
    std::string name;
    std::string version;  ///< a watch's; empty: it is none
  };

  static Place place_of(const Asked& asked) {
    Place place;
    std::string path = asked.target.substr(0, asked.target.find('?'));
    if (asked.has("watch=true")) {
      const auto at = asked.target.find("resourceVersion=");
      const std::string from = at == std::string::npos ? "0" : asked.target.substr(at + 16);
      place.version = from.substr(0, from.find('&'));
    }
    std::vector<std::string> parts;
    for (std::size_t at = 1; at <= path.size();) {
      const std::size_t end = std::min(path.find('/', at), path.size());
      parts.push_back(path.substr(at, end - at));
      at = end + 1;
    }
    // api/v1/… or apis/GROUP/VERSION/…, then perhaps namespaces/NAME.
    std::size_t i = parts.at(0) == "api" ? 2 : 3;
    std::string name_space;
    if (parts.size() > i + 2 && parts[i] == "namespaces") {
      name_space = parts[i + 1];
      i += 2;
    }
    place.kind = parts.at(i);
    if (place.kind == "leases" && name_space != kLeaseNamespace) {
      place.kind = "own leases";  // the servers', which the watch of the nodes' knows nothing of
    }
    place.name = parts.size() > i + 1 ? parts[i + 1] : "";
    return place;
  }

  static std::string name_in(const json::object& object) {
    return std::string(get_string(object.at("metadata").as_object(), "name"));
  }

  void store(const std::string& kind, json::object object) {
    const std::string name = name_in(object);
    json::object& metadata = object["metadata"].get_object();
    const auto before = objects_[kind].find(name);
    const bool existed = before != objects_[kind].end();
    if (!metadata.contains("uid")) {
      metadata["uid"] = existed ? before->second.at("metadata").at("uid")
                                : json::value(fmt::format("uid-{}", ++uids_));
    }
    metadata["resourceVersion"] = fmt::format("{}", ++version_);
    objects_[kind][name] = object;
    tell(kind, existed ? "MODIFIED" : "ADDED", object);
  }
  void erase(const std::string& kind, const std::string& name, bool told) {
    const auto found = objects_[kind].find(name);
    if (found == objects_[kind].end()) {
      return;
    }
    json::object object = found->second;
    objects_[kind].erase(found);
    object["metadata"].get_object()["resourceVersion"] = fmt::format("{}", ++version_);
    if (told) {
      tell(kind, "DELETED", object);
    }
  }
  void tell(const std::string& kind, std::string_view type, const json::object& object) {
    log_[kind].emplace_back(version_,
                            to_text(json::object{{"type", type}, {"object", object}}) + "\n");
    changed_.notify_all();
  }

  void serve(const Asked& asked, Conversation& with) {
    Fault fault;
    {
      const std::lock_guard lock(mutex_);
      fault = fault_;
    }
    if (fault && fault(asked, with)) {
      return;
    }
    const Place place = place_of(asked);
    if (!place.version.empty()) {
      return watch(place, with);
    }
    std::string body;
    const int status = answer(asked, place, body);
    with.answer(status, body);
  }

 public:
  /// What the request does, without the answer being given: for answers that are lost.
  int answer(const Asked& asked, std::string& body) { return answer(asked, place_of(asked), body); }

 private:
  int answer(const Asked& asked, const Place& place, std::string& body) {
    const std::lock_guard lock(mutex_);
    auto& kind = objects_[place.kind];
    if (asked.method == "POST") {
      json::object object = parse_json_object(asked.body).value();
      const std::string name = name_in(object);
      if (kind.contains(name)) {
        body = R"({"kind":"Status","reason":"AlreadyExists","message":"it exists","code":409})";
        return 409;
      }
      store(place.kind, std::move(object));
      body = to_text(objects_[place.kind][name]);
      return 201;
    }
    if (asked.method == "GET" && place.name.empty()) {
      json::array items;
      for (const auto& [name, object] : kind) {
        items.push_back(object);
      }
      body = to_text(json::object{{"metadata", {{"resourceVersion", fmt::format("{}", version_)}}},
                                  {"items", std::move(items)}});
      return 200;
    }
    const auto found = kind.find(place.name);
    if (asked.method == "PATCH" && asked.head.find("apply-patch") != std::string::npos) {
      store(place.kind, parse_json_object(asked.body).value());
      body = to_text(objects_[place.kind][place.name]);
      return 200;
    }
    if (found == kind.end()) {
      body = R"({"kind":"Status","reason":"NotFound","message":"it is not there","code":404})";
      return 404;
    }
    if (asked.method == "PATCH" && asked.head.find("/merge-patch") != std::string::npos) {
      const json::object patch = parse_json_object(asked.body).value();
      const std::string_view known =
          get_string(patch.at("metadata").as_object(), "resourceVersion");
      if (!known.empty() &&
          known != found->second.at("metadata").at("resourceVersion").as_string()) {
        body = R"({"kind":"Status","reason":"Conflict","message":"it was changed","code":409})";
        return 409;
      }
      json::object merged = found->second;
      merge(merged, patch);
      store(place.kind, std::move(merged));
      body = to_text(kind[place.name]);
      return 200;
    }
    body = to_text(found->second);
    if (asked.method == "DELETE" && place.kind == "secrets") {
      erase(place.kind, place.name, true);
    }
    return 200;
  }

  /// RFC 7386.
  static void merge(json::object& into, const json::object& patch) {
    for (const auto& [key, value] : patch) {
      if (value.is_null()) {
        into.erase(key);
      } else if (value.is_object() && into.contains(key) && into[key].is_object()) {
        merge(into[key].get_object(), value.get_object());
      } else {
        into[key] = value;
      }
    }
  }

  void watch(const Place& place, Conversation& with) {
    const std::int64_t from = std::stoll(place.version);
    std::unique_lock lock(mutex_);
    if (from < oldest_) {
      lock.unlock();
      with.answer(410, R"({"kind":"Status","reason":"Expired","message":"too old","code":410})");
      return;
    }
    const int generation = generation_;
    std::size_t next = 0;
    lock.unlock();
    with.begin_stream();
    lock.lock();
    while (!ending_ && !with.ended()) {
      const auto& log = log_[place.kind];
      std::string lines;
      for (; next < log.size(); ++next) {
        if (log[next].first > from) {
          lines += log[next].second;
        }
      }
      if (lines.empty() && generation != generation_) {
        break;
      }
      if (lines.empty()) {
        changed_.wait_for(lock, std::chrono::milliseconds(200));
        continue;
      }
      lock.unlock();
      with.chunk(lines);
      lock.lock();
    }
    lock.unlock();
    with.end_stream();
    with.hang_up();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  Fault fault_;
  std::map<std::string, std::map<std::string, json::object>> objects_;  ///< by kind and name
  std::map<std::string, std::vector<std::pair<std::int64_t, std::string>>> log_;
  std::int64_t version_ = 1;
  std::int64_t oldest_ = 0;
  int generation_ = 0;
  int uids_ = 0;
  bool ending_ = false;
  ScriptedServer server_;  ///< ends first
};

}  // namespace quad::kubernetes
