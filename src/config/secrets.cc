// What is secret, what of a setting may be shown, and what may not stand there.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "base/text.h"
#include "config/checks.h"
#include "config/config.h"
#include "spec/grammar.h"
#include "spec/letters.h"

namespace quad::config {

namespace {

constexpr std::string_view kRedacted = "<redacted>";

/// "http://user:word@proxy:3128" → "http://<redacted>@proxy:3128".
std::string without_password(std::string_view text) {
  const std::size_t scheme = text.find("://");
  const std::size_t begin = scheme == std::string_view::npos ? std::string_view::npos : scheme + 3;
  if (begin == std::string_view::npos) {
    return std::string(text);
  }
  const std::size_t at = text.substr(begin, text.find('/', begin) - begin).rfind('@');
  if (at == std::string_view::npos) {
    return std::string(text);
  }
  return std::string(text.substr(0, begin)) + std::string(kRedacted) +
         std::string(text.substr(begin + at));
}

json::value redacted(const json::value& value) {
  if (value.is_string()) {
    return json::string(without_password(value.get_string()));
  }
  if (const json::array* list = value.if_array()) {
    json::array out;
    for (const json::value& one : *list) {
      out.push_back(redacted(one));
    }
    return out;
  }
  const json::object* object = value.if_object();
  if (object == nullptr) {
    return value;
  }
  const bool is_variable = is_secret_name(get_string(*object, "name"));
  json::object out;
  for (const auto& [key, member] : *object) {
    const bool secret =
        member.is_string() && (is_secret_name(key) || (is_variable && key == "value"));
    out[key] = secret ? json::value(kRedacted) : redacted(member);
  }
  return out;
}

void refuse_secret(const std::string& path, const std::string& name, const spec::Node& value,
                   spec::Issues& issues) {
  if (is_secret_name(name) && value.is_string() && !value.text.empty()) {
    issues.fail(path, value.mark,
                fmt::format("{} holds the secret {} in clear; put it in a Secret of the cluster "
                            "and name that with valueFrom.secretKeyRef",
                            path, name));
  }
}

/// Every {name: …, value: …} below.
void refuse_secrets_in(const spec::Node& node, const std::string& path, spec::Issues& issues) {
  const spec::Node* name = node.find_value("name");
  const spec::Node* value = node.find_value("value");
  if (name != nullptr && value != nullptr && name->is_string()) {
    refuse_secret(path, name->text, *value, issues);
  }
  for (const spec::Entry& entry : node.entries) {
    refuse_secrets_in(entry.value, spec::join_path(path, spec::json_key(entry.key)), issues);
  }
  for (std::size_t i = 0; i < node.items.size(); ++i) {
    refuse_secrets_in(node.items[i], fmt::format("{}[{}]", path, i), issues);
  }
}

}  // namespace

void refuse_secrets(const Settings& settings, spec::Issues& issues) {
  std::set<std::pair<int, int>> seen;  // engines have the very values of `kubernetes`
  for (auto setting = settings.all().rbegin(); setting != settings.all().rend(); ++setting) {
    const spec::Mark mark = setting->value.mark;
    if (setting->layer != Setting::Layer::kFile || !seen.emplace(mark.line, mark.column).second) {
      continue;
    }
    if (setting->pattern == "engines.NAME.pod_config") {
      refuse_secrets_in(setting->value, setting->key, issues);
    } else if (setting->pattern == "engines.NAME.rdma.env") {
      for (const spec::Entry& entry : setting->value.entries) {
        refuse_secret(setting->key, spec::json_key(entry.key), entry.value, issues);
      }
    }
  }
}

bool is_secret_name(std::string_view name) {
  constexpr std::array<std::string_view, 8> kWords = {
      "TOKEN", "SECRET", "PASSWORD", "PASSWD", "APIKEY", "PASSPHRASE", "CREDENTIAL", "CREDENTIALS"};
  constexpr std::array<std::string_view, 4> kKinds = {"API", "ACCESS", "PRIVATE", "AUTH"};
  const std::string upper = spec::to_upper(name);
  const auto parts = split(upper, '_');
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (std::find(kWords.begin(), kWords.end(), parts[i]) != kWords.end()) {
      return true;
    }
    if (i > 0 && parts[i] == "KEY" &&
        std::find(kKinds.begin(), kKinds.end(), parts[i - 1]) != kKinds.end()) {
      return true;
    }
  }
  return false;
}

json::value shown_value(const Setting& setting) {
  return redacted(to_json(setting.value));
}

}  // namespace quad::config
