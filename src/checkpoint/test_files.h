// checkpoint/test_files.h
//
// For the tests of this module: real files in a temporary folder, written by hand byte by byte:
// zips as torch.save writes them, safetensors, pickles, and the folders of each framework.

#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"
#include "checkpoint/select.h"

namespace quad::checkpoint::test {

namespace fs = std::filesystem;

/// All test files are written at second 1'000'000 of the epoch unless a test says otherwise.
inline constexpr std::int64_t kThen = 1'000'000;
/// A time at which everything written at kThen has long settled.
inline constexpr WallTime kLater{(kThen + 3600) * 1000};

class Folder {
 public:
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "quad-ckpt-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  [[nodiscard]] const fs::path& path() const { return path_; }
  fs::path operator/(const fs::path& name) const { return path_ / name; }

 private:
  fs::path path_;
};

inline void set_time(const fs::path& path, std::int64_t second) {
  const std::array<timespec, 2> times = {timespec{second, 0}, timespec{second, 0}};
  if (::utimensat(AT_FDCWD, path.c_str(), times.data(), 0) != 0) {
    abort();
  }
}

/// Writes over whatever is there, keeping its inode, like open(…, "wb").
inline void put(const fs::path& path, std::string_view bytes, std::int64_t second = kThen) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  set_time(path, second);
}

inline std::string get(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::string little(std::uint64_t value, std::size_t width) {
  std::string bytes;
  for (std::size_t i = 0; i < width; ++i) {
    bytes += i < 8 ? static_cast<char>((value >> (8 * i)) & 0xFFU) : '\0';
  }
  return bytes;
}

using Part = std::pair<std::string, std::string>;  // name, content

/// A stored zip, with its zip64 records if asked for.
inline std::string zip(const std::vector<Part>& parts, bool wide = false) {
  std::string bytes;
  std::string directory;
  for (const auto& [name, content] : parts) {
    const std::uint64_t at = bytes.size();
    const std::string padding =
        "FB" + little(60 - name.size() % 50, 2) + std::string(60 - name.size() % 50, 'Z');
    bytes += "PK\x03\x04" + little(0, 4 + 4 + 2) + little(0, 4) + little(content.size(), 4) +
             little(content.size(), 4) + little(name.size(), 2) + little(padding.size(), 2) + name +
             padding + content;
    const std::string extra = wide ? little(1, 2) + little(24, 2) + little(content.size(), 8) +
                                         little(content.size(), 8) + little(at, 8)
                                   : std::string();
    const std::uint64_t narrow = 0xFFFFFFFF;
    directory += "PK\x01\x02" + little(0, 2 + 2 + 2 + 2 + 4) + little(0, 4) +
                 little(wide ? narrow : content.size(), 4) +
                 little(wide ? narrow : content.size(), 4) + little(name.size(), 2) +
                 little(extra.size(), 2) + little(0, 2 + 2 + 2 + 4) +
                 little(wide ? narrow : at, 4) + name + extra;
  }
  const std::uint64_t at = bytes.size();
  bytes += directory;
  if (wide) {
    const std::uint64_t record = bytes.size();
    bytes += "PK\x06\x06" + little(44, 8) + little(45, 2) + little(45, 2) + little(0, 8) +
             little(parts.size(), 8) + little(parts.size(), 8) + little(directory.size(), 8) +
             little(at, 8);
    bytes += "PK\x06\x07" + little(0, 4) + little(record, 8) + little(1, 4);
  }
  bytes += "PK\x05\x06" + little(0, 4) + little(wide ? 0xFFFF : parts.size(), 2) +
           little(wide ? 0xFFFF : parts.size(), 2) +
           little(wide ? 0xFFFFFFFF : directory.size(), 4) + little(wide ? 0xFFFFFFFF : at, 4) +
           little(0, 2);
  return bytes;
}

inline std::string pickled(std::string_view text) {
  return "X" + little(text.size(), 4) + std::string(text);
}
inline std::string pickled(std::int64_t number) {
  return "J" + little(static_cast<std::uint64_t>(number), 4);
}

/// {"model": {…, "step": 7}, key: value, …}: a dictionary as Python would pickle it, with a trap
/// inside.
inline std::string pickle(const std::vector<std::pair<std::string, std::int64_t>>& members) {
  std::string bytes = "\x80\x02}q" + little(0, 1) + "(" + pickled("optimizer") + "}q" +
                      little(1, 1) + "(" + pickled("step") + pickled(7) + pickled("epoch") +
                      pickled(99) + "u";
  for (const auto& [key, value] : members) {
    bytes += pickled(key) + pickled(value);
  }
  return bytes + "u.";
}

/// What torch.save writes: a zip of a pickle, storages and a version.
inline std::string torch_file(const std::vector<std::pair<std::string, std::int64_t>>& members = {},
                              std::size_t bytes = 200) {
  return zip({{"archive/data.pkl", pickle(members)},
              {"archive/data/0", std::string(bytes, 'w')},
              {"archive/data/1", std::string(bytes, '\0')},
              {"archive/version", "3\n"}});
}

inline std::string safetensors(std::size_t bytes = 100) {
  const std::string header = R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1],)"
                             R"("data_offsets":[0,)" +
                             std::to_string(bytes / 2) + R"(]},"b":{"dtype":"F32","shape":[1],)" +
                             R"("data_offsets":[)" + std::to_string(bytes / 2) + "," +
                             std::to_string(bytes) + "]}}";
  return little(header.size(), 8) + header + std::string(bytes, 't');
}

/// The .metadata of a distributed checkpoint: the extents of files, as the dataclass _StorageInfo
/// is pickled.
inline std::string dcp_metadata(const std::vector<std::pair<std::string, std::int64_t>>& files) {
  std::string bytes = "\x80\x02}q" + little(0, 1) + "(";
  for (const auto& [name, length] : files) {
    bytes += pickled("key") + "ctorch.distributed.checkpoint.filesystem\n_StorageInfo\n)\x81}(" +
             pickled("relative_path") + pickled(name) + pickled("offset") + pickled(0) +
             pickled("length") + pickled(length) + "ub";
  }
  return bytes + "u.";
}

inline void put_dcp(const fs::path& folder, std::int64_t second = kThen) {
  put(folder / "__0_0.distcp", torch_file(), second);
  put(folder / "__1_0.distcp", torch_file(), second);
  const auto size = static_cast<std::int64_t>(torch_file().size());
  put(folder / ".metadata", dcp_metadata({{"__0_0.distcp", size}, {"__1_0.distcp", size}}),
      second + 1);
}

inline void put_trainer(const fs::path& folder, int step, std::int64_t second = kThen) {
  put(folder / "model-00001-of-00002.safetensors", safetensors(), second);
  put(folder / "model-00002-of-00002.safetensors", safetensors(60), second);
  put(folder / "model.safetensors.index.json",
      R"({"weight_map":{"a":"model-00001-of-00002.safetensors",)"
      R"("b":"model-00002-of-00002.safetensors"}})",
      second);
  put(folder / "training_args.bin", torch_file(), second);
  put(folder / "optimizer.pt", torch_file(), second);
  put(folder / "scheduler.pt", torch_file(), second);
  put(folder / "rng_state_0.pth", torch_file(), second);
  put(folder / "rng_state_1.pth", torch_file(), second);
  put(folder / "trainer_state.json", R"({"epoch":1.5,"global_step":)" + std::to_string(step) + "}",
      second);
}

inline void put_deepspeed(const fs::path& folder, std::int64_t dp = 2,
                          std::int64_t second = kThen) {
  for (std::int64_t rank = 0; rank < dp; ++rank) {
    put(folder / ("zero_pp_rank_" + std::to_string(rank) + "_mp_rank_00_optim_states.pt"),
        torch_file(), second);
  }
  put(folder / "mp_rank_00_model_states.pt",
      torch_file({{"dp_world_size", dp}, {"mp_world_size", 1}, {"global_steps", 12}}), second);
}

inline void put_megatron(const fs::path& folder, std::string_view tracker,
                         std::int64_t second = kThen) {
  put_dcp(folder, second);
  put(folder / "common.pt", torch_file(), second);
  put(folder / "metadata.json", R"({"sharded_backend":"torch_dist"})", second);
  put(folder.parent_path() / "latest_checkpointed_iteration.txt", tracker, second);
}

inline void put_orbax(const fs::path& folder, std::int64_t second = kThen) {
  put(folder / "default/manifest.ocdbt", "manifest", second);
  put(folder / "default/d/0123", std::string(300, 'x'), second);
  put(folder / "_CHECKPOINT_METADATA", R"({"item_handlers":{}})", second);
}

inline ValidateOptions later() {
  ValidateOptions options;
  options.now = kLater;
  return options;
}

inline Verdict check(const fs::path& path, const ValidateOptions& options = later()) {
  return validate(PosixFileView(), path, options);
}

inline Selection pick(const fs::path& job, int current, WallTime now = kLater) {
  SelectOptions options;
  options.now = now;
  options.current = Epoch(current);
  const PosixFileView view;
  return newest_valid(view, attempt_roots(view, job, options.current), options);
}

/// The relative path of what was chosen, or "".
inline std::string chosen(const Selection& selection, const fs::path& job) {
  return selection.chosen ? selection.chosen->found.path.lexically_relative(job).string() : "";
}

}  // namespace quad::checkpoint::test
