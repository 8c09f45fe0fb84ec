// The zip side of checkpoint/content.h: end record, zip64 records, directory, a sample of the local
// headers.

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "checkpoint/content.h"
#include "checkpoint/names.h"

namespace quad::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kEndRecord = 22;
constexpr std::size_t kEndRecord64 = 56;
constexpr std::size_t kLocator64 = 20;
constexpr std::size_t kDirectoryEntry = 46;
constexpr std::size_t kLocalHeader = 30;
constexpr std::size_t kSampledHeaders = 24;

std::uint64_t number_at(std::string_view bytes, std::size_t at, std::size_t width) {
  std::uint64_t value = 0;
  for (std::size_t i = width; i > 0; --i) {
    value = (value << 8U) | static_cast<unsigned char>(bytes[at + i - 1]);
  }
  return value;
}

FileCheck broken(std::string what) {
  return {Proof::kBroken, std::move(what), std::nullopt};
}

FileCheck unreadable(const Error& failure) {
  if (failure.code == ErrorCode::kNotFound) {
    return {Proof::kGone, "vanished while it was looked at", std::nullopt};
  }
  return {Proof::kUnproven, "cannot be read: " + failure.message, std::nullopt};
}

struct EndRecord {
  std::uint64_t at = 0;  // where the directory must end
  std::uint64_t entries = 0;
  std::uint64_t directory_size = 0;
  std::uint64_t directory_at = 0;
};

struct Member {
  std::uint64_t local_at = 0;
  std::uint64_t stored = 0;  // bytes of its content in the file
  std::uint64_t method = 0;
  bool is_pickle = false;
};

// The sizes and offset that a zip64 extra field holds instead of 0xFFFFFFFF, in their fixed order.
void widen(std::string_view extra, std::uint64_t plain_size, Member& member) {
  std::size_t at = 0;
  while (at + 4 <= extra.size()) {
    const auto id = number_at(extra, at, 2);
    const auto length = static_cast<std::size_t>(number_at(extra, at + 2, 2));
    at += 4;
    if (at + length > extra.size()) {
      return;
    }
    if (id == 1) {
      std::size_t field = at;
      const auto next = [&](std::uint64_t& target) {
        if (target == 0xFFFFFFFFU && field + 8 <= at + length) {
          target = number_at(extra, field, 8);
          field += 8;
        }
      };
      next(plain_size);
      next(member.stored);
      next(member.local_at);
      return;
    }
    at += length;
  }
}

// Finds the end record whose comment reaches exactly to the end of the file.
std::optional<std::size_t> find_end(std::string_view tail) {
  for (std::size_t at = tail.size() - kEndRecord + 1; at > 0; --at) {
    const std::size_t begin = at - 1;
    if (tail.substr(begin, 4) == "PK\x05\x06" &&
        begin + kEndRecord + number_at(tail, begin + 20, 2) == tail.size()) {
      return begin;
    }
  }
  return std::nullopt;
}

std::optional<FileCheck> read_end(const FileView& view, const fs::path& path, std::uint64_t size,
                                  EndRecord& end) {
  const std::uint64_t tail_at = size > 65536 + kEndRecord ? size - 65536 - kEndRecord : 0;
  const auto read = view.read(path, tail_at, static_cast<std::size_t>(size - tail_at));
  if (!read.ok()) {
    return unreadable(read.error());
  }
  const std::string_view tail = *read;
  if (tail.size() < kEndRecord) {
    return broken(fmt::format("is cut off after {} bytes: its zip directory is missing", size));
  }
  const auto begin = find_end(tail);
  if (!begin) {
    return broken(fmt::format("is cut off after {} bytes: its zip directory is missing", size));
  }
  end.at = tail_at + *begin;
  end.entries = number_at(tail, *begin + 10, 2);
  end.directory_size = number_at(tail, *begin + 12, 4);
  end.directory_at = number_at(tail, *begin + 16, 4);
  const bool wide = end.entries == 0xFFFFU || end.directory_size == 0xFFFFFFFFU ||
                    end.directory_at == 0xFFFFFFFFU;
  if (end.at < kLocator64 + kEndRecord64) {
    return wide ? std::optional(broken("has no zip64 record although its zip directory needs one"))
                : std::nullopt;
  }
  const auto locator = view.read(path, end.at - kLocator64, kLocator64);
  if (!locator.ok()) {
    return unreadable(locator.error());
  }
  if (locator->size() != kLocator64 || std::string_view(*locator).substr(0, 4) != "PK\x06\x07") {
    return wide ? std::optional(broken("has no zip64 record although its zip directory needs one"))
                : std::nullopt;
  }
  const std::uint64_t record_at = number_at(*locator, 8, 8);
  const auto record = view.read(path, record_at, kEndRecord64);
  if (!record.ok()) {
    return unreadable(record.error());
  }
  if (record_at >= end.at || record->size() != kEndRecord64 ||
      std::string_view(*record).substr(0, 4) != "PK\x06\x06") {
    return broken("has a zip64 record that leads nowhere");
  }
  end.at = record_at;
  end.entries = number_at(*record, 32, 8);
  end.directory_size = number_at(*record, 40, 8);
  end.directory_at = number_at(*record, 48, 8);
  return std::nullopt;
}

std::optional<FileCheck> read_members(std::string_view directory, const EndRecord& end, bool cut,
                                      std::vector<Member>& members) {
  std::size_t at = 0;
  for (std::uint64_t i = 0; i < end.entries; ++i) {
    if (directory.size() - at < kDirectoryEntry) {
      return cut ? std::nullopt : std::optional(broken("has a zip directory with entries missing"));
    }
    if (directory.substr(at, 4) != "PK\x01\x02") {
      return broken("has a damaged zip directory");
    }
    const auto name_length = static_cast<std::size_t>(number_at(directory, at + 28, 2));
    const auto extra_length = static_cast<std::size_t>(number_at(directory, at + 30, 2));
    const auto comment_length = static_cast<std::size_t>(number_at(directory, at + 32, 2));
    const std::size_t whole = kDirectoryEntry + name_length + extra_length + comment_length;
    if (directory.size() - at < whole) {
      return cut ? std::nullopt : std::optional(broken("has a zip directory with entries missing"));
    }
    Member member;
    member.method = number_at(directory, at + 10, 2);
    member.stored = number_at(directory, at + 20, 4);
    member.local_at = number_at(directory, at + 42, 4);
    const std::string_view name = directory.substr(at + kDirectoryEntry, name_length);
    member.is_pickle = name == "data.pkl" || name.ends_with("/data.pkl");
    widen(directory.substr(at + kDirectoryEntry + name_length, extra_length),
          number_at(directory, at + 24, 4), member);
    if (member.local_at > end.directory_at || member.stored > end.directory_at ||
        member.local_at + kLocalHeader + member.stored > end.directory_at) {
      return broken(
          fmt::format("is damaged: its part {} would lie beyond the zip directory", shown(name)));
    }
    members.push_back(member);
    at += whole;
  }
  return at == directory.size() || cut
             ? std::nullopt
             : std::optional(broken("has a zip directory longer than its entries"));
}

}  // namespace

FileCheck check_zip(const FileView& view, const fs::path& path, std::uint64_t size,
                    const Limits& limits, bool look_inside) {
  EndRecord end;
  if (auto fault = read_end(view, path, size, end)) {
    return *fault;
  }
  if (end.directory_at > size || end.directory_size > size) {
    return broken("is cut off: its zip directory lies beyond the end of the file");
  }
  if (end.directory_at + end.directory_size != end.at) {
    return broken("contradicts itself: its zip directory is not where its end record says");
  }
  if (end.entries == 0) {
    return broken("is a zip file with nothing in it");
  }
  const auto length = std::min<std::uint64_t>(end.directory_size, limits.max_zip_directory);
  const auto directory = view.read(path, end.directory_at, static_cast<std::size_t>(length));
  if (!directory.ok()) {
    return unreadable(directory.error());
  }
  if (directory->size() != length) {
    return {Proof::kUnproven, "changed while it was looked at", std::nullopt};
  }
  std::vector<Member> members;
  if (auto fault = read_members(*directory, end, length < end.directory_size, members)) {
    return *fault;
  }
  FileCheck check{Proof::kWhole, "is whole", std::nullopt};
  const std::size_t stride = std::max<std::size_t>(1, members.size() / kSampledHeaders);
  for (std::size_t i = 0; i < members.size(); ++i) {
    const Member& member = members[i];
    const bool wanted =
        look_inside && member.is_pickle && member.method == 0 && member.stored <= limits.max_pickle;
    if (i % stride != 0 && i + 1 != members.size() && !wanted) {
      continue;
    }
    const auto header = view.read(path, member.local_at, kLocalHeader);
    if (!header.ok()) {
      return unreadable(header.error());
    }
    if (header->size() != kLocalHeader || std::string_view(*header).substr(0, 4) != "PK\x03\x04") {
      return broken(fmt::format("is damaged: there is no zip part at byte {}", member.local_at));
    }
    const std::uint64_t content_at =
        member.local_at + kLocalHeader + number_at(*header, 26, 2) + number_at(*header, 28, 2);
    if (content_at + member.stored > end.directory_at) {
      return broken("is damaged: a part would lie beyond the zip directory");
    }
    if (wanted) {
      const auto pickle = view.read(path, content_at, static_cast<std::size_t>(member.stored));
      auto facts = read_pickle(pickle.ok() ? std::string_view(*pickle) : std::string_view());
      if (facts.ok()) {
        check.inside = std::move(*facts);
      }
    }
  }
  return check;
}

}  // namespace quad::checkpoint
