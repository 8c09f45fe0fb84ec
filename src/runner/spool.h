// runner/spool.h
//
// A rank's output between its pipe and the server's acknowledgement. Bytes are numbered from 0.
// What the server is about to acknowledge stays in memory; past `memory_bytes` the oldest goes to
// segment files in the rank's folder, and past `spool_bytes` (or on a full disk) the oldest is
// dropped and leaves a gap that ends at the start of a line. Owned by the runner's one thread.
// Appending costs no copy and no system call; spilling is one write for each 256 KiB.
//
// Always holds: [front(), end()) can be read, except [gap()->from, gap()->to), and gap()->to ==
// front(); memory never exceeds memory_bytes by more than one chunk, nor the files spool_bytes by
// more than one segment.

#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"

namespace quad::runner {

struct SpoolLimits {
  std::uint64_t spool_bytes = 1ULL << 30U;   ///< in files and memory together
  std::uint64_t memory_bytes = 8ULL << 20U;  ///< at most this much of it in memory
};

/// Output bytes [from, to) are lost.
struct Gap {
  std::uint64_t from = 0;
  std::uint64_t to = 0;
  bool operator==(const Gap&) const = default;
};

class Spool {
 public:
  static constexpr std::size_t kChunk = 256U << 10U;

  /// Touches no file before memory is full.
  Spool(std::filesystem::path folder, SpoolLimits limits);
  Spool(const Spool&) = delete;
  Spool& operator=(const Spool&) = delete;
  ~Spool();

  /// Where the next output is to be read into: at least one byte.
  struct Room {
    char* data = nullptr;
    std::size_t size = 0;
  };
  Room room();
  /// `count` bytes were read into room(). May spill or drop the oldest.
  void commit(std::size_t count);
  /// Both at once: a copy, for tests and for the runner's own lines.
  void append(std::string_view bytes);

  /// Everything below `offset` is acknowledged.
  void acknowledge(std::uint64_t offset);

  /// Up to `max_bytes` from `offset`, which must be in [front(), end()), as pieces; the total that
  /// they hold. Valid until the next call on the spool. Bytes in files are read into a buffer of
  /// the spool's own.
  std::size_t view(std::uint64_t offset, std::size_t max_bytes, std::vector<iovec>& pieces);

  [[nodiscard]] std::uint64_t front() const { return front_; }
  [[nodiscard]] std::uint64_t end() const { return end_; }
  [[nodiscard]] std::optional<Gap> gap() const { return gap_; }
  /// Whether memory is full: the next chunk would spill one.
  [[nodiscard]] bool memory_full() const;
  /// Whether room() may spill or drop what is held now.
  [[nodiscard]] bool room_may_drop() const;
  /// Whether anything is in files.
  [[nodiscard]] bool spilled() const { return !segments_.empty(); }
  /// Why files are not used any more: the disk is full, …; empty if they are.
  [[nodiscard]] const std::string& trouble() const { return trouble_; }

 private:
  struct Chunk {
    std::unique_ptr<char[]> data;
    std::uint64_t begin = 0;  // offset of data[0]
    std::size_t size = 0;
  };
  struct Segment {
    UniqueFd fd;
    std::filesystem::path path;
    std::uint64_t begin = 0;
    std::uint64_t size = 0;
  };

  [[nodiscard]] bool over_bound() const;
  void make_room();
  bool spill_oldest();
  void drop_oldest(std::uint64_t bytes);
  void forget_below(std::uint64_t offset);
  [[nodiscard]] std::uint64_t line_start_after(std::uint64_t offset);

  std::filesystem::path folder_;
  SpoolLimits limits_;
  std::uint64_t segment_bytes_;
  std::deque<Segment> segments_;   // oldest first; all before the chunks
  std::deque<Chunk> chunks_;       // the last one is being filled
  std::unique_ptr<char[]> spare_;  // a chunk's memory for the next one
  std::string scratch_;
  std::uint64_t front_ = 0;
  std::uint64_t end_ = 0;
  std::uint64_t next_segment_ = 0;
  std::optional<Gap> gap_;
  std::string trouble_;
};

}  // namespace quad::runner
