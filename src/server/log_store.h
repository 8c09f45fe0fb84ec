// server/log_store.h
//
// The output of every rank of every attempt: <folder>/<job>/<epoch>/<rank>.log, the bytes as they
// came, and beside it an index of (time, offset, line) for seeking, where there is more than came
// at once. Arrival is at least once and in pieces: what is there already is left out by its offset.
// What was lost is marked by a line where it is missing. A rank that printed nothing has no files.
//
// Bytes are written to the page cache before they are acknowledged, and synced by the kernel: a
// killed server loses nothing, a power cut the last seconds.
//
// Io thread only. No work for each line but counting newlines; at most kOpenFiles descriptors.
// Seeking reads O(log n) of the index and what lies between two of its marks, however long the log
// is.

#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/file.h"
#include "base/ids.h"
#include "base/result.h"
#include "base/time.h"

namespace quad::server {

class LogStore {
 public:
  explicit LogStore(std::filesystem::path folder) : folder_(std::move(folder)) {}

  /// Takes bytes whose first has this offset in the rank's output; returns the end of what is now
  /// held (or given up: bytes that the disk does not take are lost and marked).
  std::uint64_t append(const RankKey& key, std::uint64_t offset, std::string_view bytes,
                       WallTime now);
  /// Output [from, to) will never come.
  void gap(const RankKey& key, std::uint64_t from, std::uint64_t to, WallTime now);
  /// The end of what is held, in the rank's own offsets.
  std::uint64_t end(const RankKey& key);
  /// The rank has ended: its descriptors may go.
  void close(const RankKey& key);

  // Reading, in offsets of the file.

  [[nodiscard]] std::filesystem::path file(const RankKey& key,
                                           std::string_view suffix = ".log") const;
  [[nodiscard]] std::uint64_t size(const RankKey& key) const;
  /// At most `limit` bytes from `offset`; fewer, or none, at the end.
  [[nodiscard]] Result<std::string> read(const RankKey& key, std::uint64_t offset,
                                         std::size_t limit) const;
  /// How many lines there are, one that has no end yet included.
  [[nodiscard]] std::uint64_t lines(const RankKey& key) const;
  struct Stretch {
    std::int64_t time_ms = 0;
    std::uint64_t end = 0;  ///< offset of the first byte that came later
  };
  /// When what stands at this offset came, to the precision of the index (200 ms or 64 KiB), and
  /// how far what came then goes.
  [[nodiscard]] Stretch stretch(const RankKey& key, std::uint64_t at) const;
  /// Where the last `lines` lines begin of `all` that there are; 0 if there are no more than that.
  [[nodiscard]] std::uint64_t tail(const RankKey& key, std::uint64_t lines,
                                   std::uint64_t all) const;
  [[nodiscard]] std::uint64_t tail(const RankKey& key, std::uint64_t lines) const {
    return tail(key, lines, this->lines(key));
  }
  /// Where the output of this time or later begins, to the precision of the index (200 ms).
  [[nodiscard]] std::uint64_t seek_time(const RankKey& key, WallTime time) const;
  /// Where this line, counted from 1, begins; the end if there are fewer.
  [[nodiscard]] std::uint64_t seek_line(const RankKey& key, std::uint64_t line) const;

  /// Bytes taken since this server began, and bytes that were lost because the disk refused them or
  /// they never came.
  [[nodiscard]] std::uint64_t bytes_taken() const { return bytes_taken_; }
  [[nodiscard]] std::uint64_t bytes_lost() const { return bytes_lost_; }

  /// Called after each append to the rank's log until the returned number is given to unwatch().
  std::uint64_t watch(const RankKey& key, std::function<void()> callback);
  void unwatch(const RankKey& key, std::uint64_t watcher);

 private:
  struct Mark {
    std::int64_t time_ms = 0;
    std::uint64_t offset = 0;   ///< in the file
    std::uint64_t line = 0;     ///< newlines before it
    std::uint64_t logical = 0;  ///< in the rank's output
  };
  struct Open {
    UniqueFd log;
    UniqueFd index;             ///< opened for the second mark: a short log needs none
    std::string held_mark;      ///< the first one until then
    std::uint64_t size = 0;     ///< of the file
    std::uint64_t logical = 0;  ///< end in the rank's output
    std::uint64_t lines = 0;
    std::uint64_t lost = 0;  ///< bytes that the disk refused, not yet marked
    Mark last;
    std::list<RankKey>::iterator used;
  };

  Open* open(const RankKey& key);
  bool write(const RankKey& key, Open& open, std::string_view bytes, WallTime now);
  void mark(const RankKey& key, Open& open, WallTime now, bool force);
  /// The last of the marks for which `is_before` holds, and the first for which it does not: the
  /// marks are in order, and it must hold for some of the first and none of the rest.
  struct Neighbours {
    std::optional<Mark> before;
    std::optional<Mark> after;
  };
  [[nodiscard]] Neighbours find_marks(const RankKey& key,
                                      const std::function<bool(const Mark&)>& is_before) const;
  /// What a mark at the end of a file of this size would say, but for the time.
  [[nodiscard]] Mark end_mark(const RankKey& key, std::uint64_t size) const;
  void notify(const RankKey& key);

  std::filesystem::path folder_;
  std::unordered_map<RankKey, Open> open_;
  std::list<RankKey> recent_;  ///< most recent first
  std::map<RankKey, std::map<std::uint64_t, std::function<void()>>> watchers_;
  std::uint64_t last_watcher_ = 0;
  std::uint64_t bytes_taken_ = 0;
  std::uint64_t bytes_lost_ = 0;
};

}  // namespace quad::server
