#include "control/clusters.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/text.h"

namespace quad::control {

namespace {

constexpr std::array<std::string_view, 3> kWaitFor = {"jobs_and_ssh", "jobs", "none"};
constexpr std::array<std::string_view, 3> kWanted = {"up", "stopped", "gone"};
constexpr std::size_t kLongestName = 60;

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_letter_or_digit(char c) {
  return is_letter(c) || (c >= '0' && c <= '9');
}

}  // namespace

std::string_view to_string(Autostop::WaitFor wait_for) {
  return kWaitFor[static_cast<std::size_t>(wait_for)];
}

std::optional<Autostop::WaitFor> wait_for_of(std::string_view text) {
  const auto found = std::find(kWaitFor.begin(), kWaitFor.end(), text);
  return found == kWaitFor.end()
             ? std::nullopt
             : std::optional(static_cast<Autostop::WaitFor>(found - kWaitFor.begin()));
}

std::string_view status_of(const Cluster& cluster, const job::Job* holder) {
  if (holder == nullptr || job::is_terminal(holder->status)) {
    return "STOPPED";
  }
  if (cluster.wanted != Cluster::Wanted::kUp) {
    return "STOPPING";
  }
  return holder->status == job::Status::kRunning ? "UP" : "INIT";
}

Status check_cluster_name(std::string_view name) {
  const bool good = !name.empty() && name.size() <= kLongestName && is_letter(name.front()) &&
                    is_letter_or_digit(name.back()) &&
                    std::all_of(name.begin(), name.end(), [](char c) {
                      return is_letter_or_digit(c) || c == '-' || c == '_' || c == '.';
                    });
  if (good) {
    return {};
  }
  return error(ErrorCode::kInvalid,
               fmt::format("'{}' is no name for a cluster: it begins with a letter, ends with a "
                           "letter or digit, and has only letters, digits, '-', '_' and '.', {} "
                           "at most",
                           printable(name.substr(0, 80)), kLongestName),
               "cluster");
}

json::object to_json(const Cluster& cluster) {
  json::object object;
  object["name"] = cluster.name;
  object["owner"] = cluster.owner;
  object["holder"] = cluster.holder.value();
  object["wanted"] = kWanted[static_cast<std::size_t>(cluster.wanted)];
  object["wanted_by"] = cluster.wanted_by;
  object["reason"] = cluster.reason;
  object["settled"] = cluster.settled;
  if (cluster.autostop) {
    object["autostop"] = json::object{{"idle", cluster.autostop->idle.count()},
                                      {"down", cluster.autostop->down},
                                      {"wait_for", to_string(cluster.autostop->wait_for)}};
  }
  object["launched_at"] = cluster.launched_at.millis;
  object["used_at"] = cluster.used_at.millis;
  return object;
}

Result<Cluster> cluster_from_json(const json::object& object) {
  Cluster cluster;
  cluster.name = get_string(object, "name");
  cluster.owner = get_string(object, "owner");
  cluster.holder = JobId(get_int(object, "holder"));
  const auto wanted = std::find(kWanted.begin(), kWanted.end(), get_string(object, "wanted"));
  if (cluster.name.empty() || cluster.holder.value() < 1 || wanted == kWanted.end()) {
    return error(ErrorCode::kInvalid,
                 fmt::format("The record of cluster '{}' is not sound", cluster.name));
  }
  cluster.wanted = static_cast<Cluster::Wanted>(wanted - kWanted.begin());
  cluster.wanted_by = get_string(object, "wanted_by");
  cluster.reason = get_string(object, "reason");
  cluster.settled = get_bool(object, "settled", true);
  if (const json::object* autostop = get_object(object, "autostop")) {
    cluster.autostop = Autostop{
        Millis(get_int(*autostop, "idle")), get_bool(*autostop, "down"),
        wait_for_of(get_string(*autostop, "wait_for")).value_or(Autostop::WaitFor::kJobsAndSsh)};
  }
  cluster.launched_at = WallTime{get_int(object, "launched_at")};
  cluster.used_at = WallTime{get_int(object, "used_at")};
  return cluster;
}

}  // namespace quad::control
