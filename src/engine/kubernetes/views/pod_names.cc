#include "engine/kubernetes/views/pod_names.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"

namespace quad::kubernetes {

namespace {

constexpr std::size_t kLongestLabel = 63;

bool is_alphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

/// Letters, digits and what is in `inner` between them, at most `longest`.
bool is_name(std::string_view text, std::string_view inner, std::size_t longest) {
  return !text.empty() && text.size() <= longest && is_alphanumeric(text.front()) &&
         is_alphanumeric(text.back()) && std::all_of(text.begin(), text.end(), [&](char c) {
           return is_alphanumeric(c) || inner.find(c) != std::string_view::npos;
         });
}

template <typename Id>
std::optional<Id> id_of(const json::object& labels, std::string_view key) {
  const std::string_view text = get_string(labels, key);
  const auto value = parse_number<typename Id::ValueType>(text);
  return value && *value >= 0 ? std::optional(Id(*value)) : std::nullopt;
}

}  // namespace

std::string attempt_name(std::string_view server, JobId job, Epoch epoch) {
  return fmt::format("{}-e{}", job_object_name(server, job), epoch.value());
}

std::string pod_name(std::string_view server, const RankKey& key) {
  return fmt::format("{}-r{}", attempt_name(server, key.job, key.epoch), key.rank.value());
}

std::string job_object_name(std::string_view server, JobId job) {
  return fmt::format("{}{}-j{}", kNamePrefix, server, job.value());
}

std::string rank_hostname(std::string_view job_name, const RankKey& key) {
  const std::string end = fmt::format("{}-r{}", key.job.value(), key.rank.value());
  std::string name;
  for (const char c : job_name) {
    const bool dash = !name.empty() && name.back() != '-';
    if (is_alphanumeric(c)) {
      name += lower(c);
    } else if (dash) {
      name += '-';
    }
  }
  name = name.substr(0, kLongestLabel - end.size() - 1);
  while (name.ends_with('-')) {
    name.pop_back();
  }
  // A label that is a number throughout is no host's name everywhere.
  return fmt::format("{}-{}", name.empty() ? "job" : name, end);
}

std::string folder_of_user(std::string_view user) {
  std::string folder;
  for (const char c : user) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
                       c == '@' || (c == '.' && !folder.empty());
    folder += plain ? std::string(1, c) : fmt::format("%{:02x}", static_cast<unsigned char>(c));
  }
  return folder.empty() ? "%" : folder;
}

std::string label_value(std::string_view text) {
  std::string value;
  for (const char c : text) {
    const bool fine = is_alphanumeric(c) || ((c == '-' || c == '_' || c == '.') && !value.empty());
    if (fine) {
      value += c;
    } else if (!value.empty()) {
      value += '_';
    }
  }
  value = value.substr(0, kLongestLabel);
  while (!value.empty() && !is_alphanumeric(value.back())) {
    value.pop_back();
  }
  return value;
}

std::string label_fault(std::string_view key, std::string_view value) {
  constexpr std::size_t kLongestPrefix = 253;
  const std::size_t slash = key.find('/');
  const std::string_view prefix =
      slash == std::string_view::npos ? std::string_view() : key.substr(0, slash);
  const std::string_view name = slash == std::string_view::npos ? key : key.substr(slash + 1);
  if (key.starts_with(kOwnPrefix)) {
    return "begins with quad.io/, which is kept for Quad's own labels";
  }
  if (!is_name(name, "-_.", kLongestLabel) ||
      (slash != std::string_view::npos && !is_name(prefix, "-.", kLongestPrefix))) {
    return "is no label's name: it may have a DNS prefix and '/', then at most 63 letters, digits "
           "and - _ . between them";
  }
  if (!value.empty() && !is_name(value, "-_.", kLongestLabel)) {
    return fmt::format(
        "has the value '{}', but a label's value is at most 63 letters, digits and "
        "- _ . between them",
        value);
  }
  return {};
}

json::object identity_labels(std::string_view server, const RankKey& key) {
  return {{"app.kubernetes.io/managed-by", "quad"},
          {kLabelServer, server},
          {kLabelJob, fmt::format("{}", key.job.value())},
          {kLabelEpoch, fmt::format("{}", key.epoch.value())},
          {kLabelRank, fmt::format("{}", key.rank.value())}};
}

std::optional<RankKey> rank_of_labels(const json::object& labels, std::string_view server) {
  const auto job = id_of<JobId>(labels, kLabelJob);
  const auto epoch = id_of<Epoch>(labels, kLabelEpoch);
  const auto rank = id_of<Rank>(labels, kLabelRank);
  if (get_string(labels, kLabelServer) != server || !job || !epoch || !rank) {
    return std::nullopt;
  }
  return RankKey{*job, *epoch, *rank};
}

std::string server_selector(std::string_view server) {
  return fmt::format("{}={}", kLabelServer, server);
}

}  // namespace quad::kubernetes
