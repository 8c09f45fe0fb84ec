// server/log_reader.h
//
// The output of an attempt's ranks on its way to one reader: where each rank's begins (tail, line,
// time, or the place that an earlier reader had reached), which lines are wanted, and how far each
// rank has been read. Gives pieces; how they look on the wire is the route's. Io thread only;
// bounded memory for each rank.
//
// The output of several ranks comes by time, to the precision of the logs' indexes. A piece of it
// ends with a line or a carriage return; what has neither yet is given once it has been still for a
// moment. A search gives whole lines, one rank alone the bytes as they came.

#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/time.h"
#include "job/job.h"
#include "server/log_store.h"

namespace quad::server {

/// A place in a job's output: what a reader that lost its connection gives to go on.
/// "2:0=1234,1=880"; of "start" the attempt is 0.
struct LogCursor {
  Epoch attempt;
  std::map<std::int32_t, std::uint64_t> offsets;  ///< by rank; a rank that is not named begins at 0
};
std::optional<LogCursor> parse_log_cursor(std::string_view text);

/// What of a job's output is asked for.
struct LogWanted {
  std::optional<Epoch> attempt;
  std::optional<Rank> rank;
  bool follow = false;
  std::optional<std::int64_t> tail;
  std::optional<WallTime> since;
  std::optional<std::int64_t> line;
  std::string grep;
  std::optional<LogCursor> from;  ///< outranks the other places to begin at
};

class LogReader {
 public:
  LogReader(LogStore& logs, LogWanted wanted) : logs_(logs), wanted_(std::move(wanted)) {}
  LogReader(const LogReader&) = delete;
  LogReader& operator=(const LogReader&) = delete;
  ~LogReader() { unwatch(); }

  /// Begins with an attempt. `first`: the places to begin at that were asked for count.
  void begin(const job::Job& job, Epoch epoch, bool first);

  struct Piece {
    Rank rank;
    std::string prefix;  ///< for each of its lines; empty if there is one rank only
    std::string text;
    std::uint64_t next = 0;  ///< where to go on after it
  };
  /// What there is after what was given before, at most 1 MiB of it. `last`: also what has no line
  /// end yet. False if nothing was read or given.
  bool next(const job::Job& job, MonoTime now, bool last, std::vector<Piece>& out);
  /// How long until next() gives what has no line end yet, if nothing comes meanwhile.
  [[nodiscard]] std::optional<Millis> gives_rest_in(MonoTime now) const;
  /// Where each rank goes on.
  [[nodiscard]] std::vector<std::pair<Rank, std::uint64_t>> places() const;

  /// Calls `callback` when there is more.
  void watch(const std::function<void()>& callback);
  void unwatch();

 private:
  struct Source {
    RankKey key;
    std::uint64_t at = 0;
    std::string partial;  ///< a line whose end has not come yet, where lines matter
    MonoTime grown_at;    ///< when that was last added to
    std::optional<LogStore::Stretch> stretch;  ///< that `at` is in
  };

  [[nodiscard]] bool by_lines() const { return several_ || !wanted_.grep.empty(); }
  /// Whose output goes on: of those that have any, the one that came first. Null: nobody's.
  Source* earliest();
  void give(const job::Job& job, const Source& source, std::string text, std::vector<Piece>& out);
  void take_lines(Source& source, std::string_view bytes, std::string& out);
  void take_line(std::string_view line, std::string& out);

  LogStore& logs_;
  LogWanted wanted_;
  bool several_ = false;
  std::uint64_t skip_ = 0;  ///< lines still to be left out, of all ranks together
  std::vector<Source> sources_;
  std::vector<std::pair<RankKey, std::uint64_t>> watched_;
};

}  // namespace quad::server
