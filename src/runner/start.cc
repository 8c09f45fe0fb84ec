#include "runner/start.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"
#include "base/json.h"
#include "runner/endpoint.h"
#include "runner/protocol.h"

namespace quad::runner {

namespace {
constexpr std::int64_t kHighestCpu = 1 << 20;
}

Result<Start> parse_start(std::string_view text) {
  QUAD_ASSIGN(const json::object object, parse_json_object(text));
  Start start;
  start.server = get_string(object, "server");
  start.ca = get_string(object, "ca");
  start.token = get_string(object, "token");
  start.key = rank_key_of(object);
  start.node = get_string(object, "node");
  start.address = get_string(object, "address");
  if (const json::array* gpus = get_array(object, "gpus")) {
    for (const json::value& gpu : *gpus) {
      if (!gpu.is_int64()) {
        return error(ErrorCode::kInvalid, "start.json: \"gpus\" must be a list of integers");
      }
      start.gpus.push_back(static_cast<std::int32_t>(gpu.get_int64()));
    }
  }
  if (const json::array* cpus = get_array(object, "cpus")) {
    for (const json::value& cpu : *cpus) {
      if (!cpu.is_int64() || cpu.get_int64() < 0 || cpu.get_int64() > kHighestCpu) {
        return error(ErrorCode::kInvalid,
                     "start.json: \"cpus\" must be a list of the kernel's CPU numbers");
      }
      start.cpus.push_back(static_cast<int>(cpu.get_int64()));
    }
  }
  start.gpu_env = get_string(object, "gpu_env");
  start.cpu_milli = get_int(object, "cpu_milli");
  start.memory_bytes = get_int(object, "memory_bytes");
  start.hot = get_string(object, "hot");
  start.home = get_string(object, "home");
  start.termination_message = get_string(object, "termination_message");
  start.holder = get_string(object, "holder");
  if (const json::array* hidden = get_array(object, "hidden")) {
    for (const json::value& folder : *hidden) {
      if (!folder.is_string() || !folder.get_string().starts_with('/')) {
        return error(ErrorCode::kInvalid,
                     "start.json: \"hidden\" must be a list of absolute paths");
      }
      start.hidden.emplace_back(folder.get_string());
    }
  }
  if (object.contains("account")) {
    const json::object* account = get_object(object, "account");
    if (account == nullptr) {
      return error(ErrorCode::kInvalid, "start.json: \"account\" must be an object");
    }
    QUAD_ASSIGN(start.account, account_from_json(*account));
  }
  start.brought = get_string(object, "brought");
  if (const json::object* limits = get_object(object, "limits")) {
    const std::int64_t bytes = get_int(*limits, "spool_bytes", 1LL << 30U);
    start.spool_bytes = bytes < 0 ? 0 : static_cast<std::uint64_t>(bytes);
    start.namespaces = get_bool(*limits, "namespaces", true);
    start.processes =
        static_cast<std::uint64_t>(std::max<std::int64_t>(0, get_int(*limits, "processes")));
  }
  if (start.server.empty()) {
    return error(ErrorCode::kInvalid, "start.json: \"server\" is missing");
  }
  if (const auto endpoint = parse_endpoint(start.server); !endpoint.ok()) {
    return error(ErrorCode::kInvalid, "start.json: " + endpoint.error().message);
  }
  if (start.key.job.value() <= 0 || start.key.epoch.value() <= 0 || start.key.rank.value() < 0) {
    return error(ErrorCode::kInvalid,
                 "start.json: \"job\" and \"epoch\" must be above 0, and \"rank\" 0 or above");
  }
  if (start.account && start.hidden.empty()) {
    return error(ErrorCode::kInvalid,
                 "start.json: a rank with an \"account\" of its own needs \"hidden\" folders");
  }
  return start;
}

Result<Start> read_start(const std::filesystem::path& folder) {
  QUAD_ASSIGN(const std::string text, read_file(folder / "start.json", 1U << 20U));
  return parse_start(text);
}

}  // namespace quad::runner
