#include "checkpoint/take_over.h"

#include "base/file.h"
#include "base/json.h"

namespace quad::checkpoint {
namespace {

constexpr std::size_t kMaxRecord = 65536;
constexpr const char* kRecord = ".quad/resumed.json";

}  // namespace

std::optional<TakeOver> read_take_over(const FileView& view, const std::filesystem::path& root) {
  const auto text = view.read(root / kRecord, 0, kMaxRecord);
  if (!text.ok()) {
    return std::nullopt;
  }
  const auto object = parse_json_object(*text, 4);
  if (!object.ok() || get_int(*object, "epoch") <= 0) {
    return std::nullopt;
  }
  const auto info = view.stat(root / kRecord);
  if (!info.ok()) {
    return std::nullopt;
  }
  TakeOver takeover;
  takeover.at_nanos = info->mtime_nanos;
  takeover.epoch = Epoch(static_cast<std::int32_t>(get_int(*object, "epoch")));
  if (const auto from = get_string(*object, "from"); !from.empty()) {
    takeover.from = std::string(from);
  }
  if (const auto step = get_int(*object, "step", -1); step >= 0) {
    takeover.step = step;
  }
  if (const auto written = get_int(*object, "written_nanos", -1); written >= 0) {
    takeover.state = StateOf{static_cast<std::uint64_t>(get_int(*object, "size")), written};
  }
  takeover.path = get_string(*object, "path");
  takeover.how = get_string(*object, "how");
  return takeover;
}

Status write_take_over(const std::filesystem::path& root, const TakeOver& takeover) {
  QUAD_TRY(make_folders(root / ".quad"));
  json::object object;
  object["epoch"] = takeover.epoch.value();
  object["from"] = takeover.from ? json::value(json::string(*takeover.from)) : json::value();
  object["step"] = takeover.step ? json::value(*takeover.step) : json::value();
  if (takeover.state) {
    object["size"] = takeover.state->size;
    object["written_nanos"] = takeover.state->newest_nanos;
  }
  object["path"] = takeover.path;
  object["how"] = takeover.how;
  return write_file_atomically(root / kRecord, to_pretty_text(object));
}

}  // namespace quad::checkpoint
