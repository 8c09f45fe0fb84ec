#include "checkpoint/content.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "base/json.h"
#include "checkpoint/names.h"

namespace quad::checkpoint {
namespace {

namespace fs = std::filesystem;

// PyTorch's format from before 1.6 begins with the pickle of this number.
constexpr std::string_view kLegacyTorch("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
                                        15);
// The largest header that the safetensors library itself accepts.
constexpr std::uint64_t kMaxSafetensorsHeader = 100'000'000;

FileCheck of(Proof proof, std::string what) {
  return {proof, std::move(what), std::nullopt};
}

FileCheck unreadable(const Error& failure) {
  return failure.code == ErrorCode::kNotFound
             ? of(Proof::kGone, "vanished while it was looked at")
             : of(Proof::kUnproven, "cannot be read: " + failure.message);
}

FileCheck check_pickle(const FileView& view, const fs::path& path, std::uint64_t size,
                       std::string_view head, const Limits& limits) {
  if (head.starts_with(kLegacyTorch)) {
    return of(Proof::kUnproven,
              "is in PyTorch's format from before 1.6, which cannot be proven complete");
  }
  if (head.starts_with(kLegacyTorch.substr(0, std::min(head.size(), kLegacyTorch.size()))) &&
      size < kLegacyTorch.size() && size > 2) {
    return of(Proof::kBroken, fmt::format("is cut off after {} bytes", size));
  }
  const auto last = view.read(path, size - 1, 1);
  if (!last.ok()) {
    return unreadable(last.error());
  }
  if (*last != ".") {
    return of(Proof::kBroken,
              fmt::format("is cut off after {} bytes: a pickle ends with its stop mark", size));
  }
  if (size <= limits.max_pickle) {
    const auto bytes = view.read(path, 0, static_cast<std::size_t>(size));
    if (!bytes.ok()) {
      return unreadable(bytes.error());
    }
    const auto facts = read_pickle(*bytes);
    if (facts.ok() && facts->length == size) {
      return of(Proof::kWhole, "is whole");
    }
    if (!facts.ok() && facts.error().code == ErrorCode::kInvalid) {
      return of(Proof::kBroken, fmt::format("is cut off after {} bytes, in mid-pickle", size));
    }
  }
  return of(Proof::kUnproven, "is no plain pickle, so it cannot be proven complete");
}

}  // namespace

FileCheck check_safetensors(const FileView& view, const fs::path& path, std::uint64_t size,
                            const Limits& limits) {
  const auto head = view.read(path, 0, 8);
  if (!head.ok()) {
    return unreadable(head.error());
  }
  if (size < 10 || head->size() != 8) {
    return of(Proof::kBroken,
              fmt::format("is cut off after {} bytes: its header is not all there", size));
  }
  std::uint64_t length = 0;
  for (std::size_t i = 8; i > 0; --i) {
    length = (length << 8U) | static_cast<unsigned char>((*head)[i - 1]);
  }
  if (length > kMaxSafetensorsHeader || length < 2) {
    return of(Proof::kBroken, "is damaged: its header cannot be that long");
  }
  if (size < 8 + length) {
    return of(Proof::kBroken,
              fmt::format("is cut off after {} bytes: its header is not all there", size));
  }
  if (length > limits.max_json) {
    return of(Proof::kUnproven, "has a header that is too long to check");
  }
  const auto text = view.read(path, 8, static_cast<std::size_t>(length));
  if (!text.ok()) {
    return unreadable(text.error());
  }
  const auto header = parse_json_object(*text, 16);
  if (!header.ok()) {
    return of(Proof::kBroken, "is damaged: its header is no JSON");
  }
  std::uint64_t end = 0;
  for (const auto& member : *header) {
    if (member.key() == "__metadata__") {
      continue;
    }
    const auto* tensor = member.value().if_object();
    const auto* offsets = tensor == nullptr ? nullptr : get_array(*tensor, "data_offsets");
    if (offsets == nullptr || offsets->size() != 2) {
      return of(Proof::kBroken, "is damaged: its header lacks the place of a tensor");
    }
    boost::system::error_code bad_begin;
    boost::system::error_code bad_end;
    const auto from = (*offsets)[0].to_number<std::uint64_t>(bad_begin);
    const auto to = (*offsets)[1].to_number<std::uint64_t>(bad_end);
    if (bad_begin || bad_end || from > to) {
      return of(Proof::kBroken, "is damaged: its header gives a tensor an impossible place");
    }
    end = std::max(end, to);
  }
  const std::uint64_t data = size - 8 - length;
  if (data < end) {
    return of(Proof::kBroken, fmt::format("is cut off: its header promises {} bytes of tensors and "
                                          "{} are there",
                                          end, data));
  }
  if (data > end) {
    return of(Proof::kBroken,
              fmt::format("has {} bytes more than its header accounts for", data - end));
  }
  return of(Proof::kWhole, "is whole");
}

FileCheck check_file(const FileView& view, const fs::path& path, const FileInfo& info,
                     const Limits& limits, bool look_inside) {
  if (info.size == 0) {
    return of(Proof::kBroken, "is empty");
  }
  const std::string name = path.filename().string();
  const std::string extension = extension_of(name);
  if (extension == ".safetensors") {
    return check_safetensors(view, path, info.size, limits);
  }
  const auto read = view.read(path, 0, 16);
  if (!read.ok()) {
    return unreadable(read.error());
  }
  const std::string_view head = *read;
  if (head.starts_with("PK\x03\x04") || (info.size < 4 && head.starts_with("P"))) {
    return check_zip(view, path, info.size, limits, look_inside);
  }
  if (head.size() >= 2 && head[0] == '\x80' && head[1] >= 2 && head[1] <= 5) {
    return check_pickle(view, path, info.size, head, limits);
  }
  if (head.find_first_not_of('\0') == std::string_view::npos && is_checkpoint_file_name(name)) {
    return of(Proof::kBroken, "begins with zeros: its content never reached the disk");
  }
  if (extension == ".npz" || extension == ".keras") {
    return of(Proof::kBroken, "does not begin like the zip file that it should be");
  }
  if (head.size() < 4 && is_checkpoint_file_name(name)) {
    return of(Proof::kBroken, fmt::format("is cut off after {} bytes", info.size));
  }
  return of(Proof::kUnproven, "is in no format that can be proven complete");
}

}  // namespace quad::checkpoint
