#include "runner/result_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "base/file.h"

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
  UniqueFd fd(
      ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644));
  if (!fd) {
    return errno_error("Cannot create result.json", errno);
  }
  QUAD_TRY(write_all(fd.get(), to_text(to_json(result)) + "\n"));
  if (::rename(temporary.c_str(), (folder / "result.json").c_str()) != 0) {
    return errno_error("Cannot write result.json", errno);
  }
  return {};
}

Status sync_result(const std::filesystem::path& folder) {
  const UniqueFd fd(::open((folder / "result.json").c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd || ::fdatasync(fd.get()) != 0) {
    return errno_error("Cannot sync result.json", errno);
  }
  return {};
}

std::optional<RankResult> read_result(const std::filesystem::path& folder) {
  auto text = read_file(folder / "result.json", 1U << 20U);
  if (!text.ok()) {
    return std::nullopt;
  }
  auto object = parse_json_object(text.value());
  return object.ok() ? std::optional(result_from(object.value())) : std::nullopt;
}

}  // namespace quad::runner
