#include "spec/accelerators.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include <fmt/format.h>

#include "base/text.h"
#include "spec/letters.h"
#include "spec/number.h"
#include "spec/readers.h"

namespace quad::spec {

namespace {

constexpr std::string_view kForms = "NAME, NAME:COUNT, or memory such as 80GB+ or nvidia:80GB+:2";

/// "80GB", "80GB+": digits and gb, mb or tb.
bool is_memory(std::string_view text) {
  if (text.ends_with('+')) {
    text.remove_suffix(1);
  }
  const std::string unit = text.size() > 2 ? to_lower(text.substr(text.size() - 2)) : "";
  const std::string_view digits =
      text.substr(0, text.size() - std::min<std::size_t>(2, text.size()));
  return (unit == "gb" || unit == "mb" || unit == "tb") && !digits.empty() &&
         std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
}

class Expander {
 public:
  Expander(const std::string& path, Issues& issues) : path_(path), issues_(issues) {}

  void add(const std::string& written, Mark mark) {
    const auto parts = split(written, ':');
    if (parts.size() == 3) {
      return by_memory(parts[1], parts[0], parts[2], written, mark);
    }
    if (parts.size() == 2 && is_memory(parts[0])) {
      return by_memory(parts[0], "", parts[1], written, mark);
    }
    if (parts.size() == 2 && is_memory(parts[1])) {
      return by_memory(parts[1], parts[0], "1", written, mark);
    }
    if (parts.size() == 1 && is_memory(parts[0])) {
      return by_memory(parts[0], "", "1", written, mark);
    }
    keep(written, true, mark);
  }

  AcceleratorChoices result;

 private:
  void by_memory(std::string_view memory, std::string_view maker, std::string_view count_text,
                 const std::string& written, Mark mark) {
    const auto count = python_int(count_text);
    const auto size = is_memory(memory) ? parse_memory(memory) : std::nullopt;
    if (!count || !size) {
      issues_.fail(path_, mark,
                   fmt::format("{} must be {}, not {}", path_, kForms, shown(written)));
      return;
    }
    const auto names = gpus_by_memory(size->gigabytes, size->at_least, to_lower(maker));
    if (names.empty()) {
      issues_.fail(path_, mark,
                   fmt::format("{} asks for {}, which no known GPU has", path_, shown(written)),
                   "name the model");
    }
    for (const std::string_view name : names) {
      keep(fmt::format("{}:{}", name, *count), false, mark);
    }
  }

  void keep(std::string text, bool by_name, Mark mark) {
    const auto [place, added] = places_.emplace(text, result.choices.size());
    if (added) {
      result.choices.push_back({std::move(text), by_name, mark});
    } else {
      result.choices[place->second].by_name |= by_name;
    }
  }

  const std::string& path_;
  Issues& issues_;
  std::unordered_map<std::string, std::size_t> places_;
};

}  // namespace

std::optional<AcceleratorChoices> expand_accelerators(const Node& node, const std::string& path,
                                                      Issues& issues) {
  const std::size_t before = issues.failures();
  Expander expander(path, issues);
  if (node.is_string()) {
    expander.add(node.text, node.mark);
  } else if (node.is_mapping()) {
    for (const Entry& entry : node.entries) {
      const std::string name = python_str(entry.key);
      expander.add(entry.value.is_null() ? name : name + ":" + python_str(entry.value),
                   entry.key.mark);
    }
  } else {
    expander.result.ordered = true;
    for (const Node& item : node.items) {
      expander.add(item.text, item.mark);
    }
  }
  if (expander.result.choices.empty() && issues.failures() == before) {
    issues.fail(path, node.mark,
                fmt::format("{} is empty; name an accelerator or leave the key out", path));
  }
  if (issues.failures() != before) {
    return std::nullopt;
  }
  return std::move(expander.result);
}

std::optional<AcceleratorRequest> read_accelerator(const AcceleratorChoice& choice,
                                                   const std::string& path, Issues& issues) {
  AcceleratorRequest request;
  const auto parts = split(choice.text, ':');
  request.name = std::string(parts[0]);
  if (parts.size() > 1) {
    const auto count = python_float(parts[1]);
    if (parts.size() > 2 || !count) {
      issues.fail(path, choice.mark,
                  fmt::format("{} must be {}, not {}", path, kForms, shown(choice.text)));
      return std::nullopt;
    }
    request.count = *count;
  }
  constexpr double kMost = 1e6;
  if (!(request.count > 0) || request.count > kMost) {
    issues.fail(path, choice.mark,
                fmt::format("{} must ask for a positive number of accelerators, not {}", path,
                            shown(choice.text)));
    return std::nullopt;
  }
  request.milli = std::max<std::int64_t>(1, std::llround(request.count * 1000));
  return request;
}

}  // namespace quad::spec
