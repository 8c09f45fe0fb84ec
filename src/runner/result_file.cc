#include "runner/result_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "base/file.h"
#include "runner/own_file.h"

namespace quad::runner {

namespace fs = std::filesystem;

json::object to_json(const RankResult& result) {
  return {{"how", result.how},           {"code", result.code},
          {"by_quad", result.by_quad},   {"out_of_memory", result.out_of_memory},
          {"in_setup", result.in_setup}, {"detail", result.detail},
          {"log_end", result.log_end},   {"at_ms", result.at_ms}};
}

RankResult result_from(const json::object& object) {
  RankResult result;
  result.how = get_string(object, "how", "exited");
  result.code = static_cast<std::int32_t>(get_int(object, "code"));
  result.by_quad = get_bool(object, "by_quad");
  result.out_of_memory = get_bool(object, "out_of_memory");
  result.in_setup = get_bool(object, "in_setup");
  result.detail = get_string(object, "detail");
  result.log_end = static_cast<std::uint64_t>(get_int(object, "log_end"));
  result.at_ms = get_int(object, "at_ms");
  return result;
}

Status write_result(const std::filesystem::path& folder, const RankResult& result) {
  const fs::path temporary = folder / "result.json.tmp";
  const auto failed = [&](Error why) {
    ::unlink(temporary.c_str());
    return why;
  };
  QUAD_ASSIGN(const UniqueFd fd, create_own_file(temporary, 0644));
  if (auto written = write_all(fd.get(), to_text(to_json(result)) + "\n"); !written.ok()) {
    return failed(
        error(written.error().code, "Cannot write result.json: " + written.error().message));
  }
  if (::rename(temporary.c_str(), (folder / "result.json").c_str()) != 0) {
    return failed(errno_error("Cannot write result.json", errno));
  }
  return {};
}

Status sync_result(const std::filesystem::path& folder) {
  const UniqueFd fd(
      ::open((folder / "result.json").c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) {
    return errno_error("Cannot sync result.json", errno);
  }
  return sync_folder(folder);  // which has the name only since the rename
}

std::optional<RankResult> read_result(const std::filesystem::path& folder) {
  auto text = read_regular_file(folder / "result.json", 1U << 20U);
  if (!text.ok()) {
    return std::nullopt;
  }
  auto object = parse_json_object(text.value());
  return object.ok() ? std::optional(result_from(object.value())) : std::nullopt;
}

}  // namespace quad::runner
