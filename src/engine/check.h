// engine/check.h
//
// What an engine's machines have and lack for jobs, as `quad check` tells it: a line for each thing
// that was looked at, with what to do where something is lacking. Plain values, any thread.

#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quad::engine {

enum class CheckLevel {
  kOk,
  kAdvice,   ///< jobs run; something would be better or is not configured
  kUnknown,  ///< could not be looked at, and why
  kMissing,  ///< jobs, or some kind of them, cannot run
};

struct CheckLine {
  std::string topic;  ///< "permissions", "GPUs"
  CheckLevel level = CheckLevel::kOk;
  std::string text;  ///< a clause: "may not create pods in namespace 'jobs'"
  std::string fix;   ///< a sentence; empty where there is nothing to do
};

struct CheckReport {
  std::string engine;  ///< its name
  std::string what;    ///< "Kubernetes, context west"
  std::vector<CheckLine> lines;
};

inline std::string_view to_string(CheckLevel level) {
  switch (level) {
    case CheckLevel::kOk:
      return "ok";
    case CheckLevel::kAdvice:
      return "advice";
    case CheckLevel::kUnknown:
      return "unknown";
    case CheckLevel::kMissing:
      return "missing";
  }
  return "unknown";
}

inline bool is_complete(const CheckReport& report) {
  return std::none_of(report.lines.begin(), report.lines.end(),
                      [](const CheckLine& line) { return line.level == CheckLevel::kMissing; });
}

}  // namespace quad::engine
