#include "server/log_reader.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "server/input.h"

namespace quad::server {

namespace {

constexpr std::size_t kPiece = 1024 * 1024;  ///< read at once, of all ranks together
/// How long a line without an end is waited with, so that its parts are not torn apart by others.
constexpr Millis kStill{200};
constexpr std::size_t kLongestLine =
    1U << 20U;  ///< a longer one is cut, so that a reader without newlines is bounded

/// How SkyPilot marks the lines of several ranks. The number is the runner's: what is known of it
/// came with its hello.
std::string prefix_of(const job::RankRecord& rank, std::int32_t number) {
  const std::string pid = rank.pid > 0 ? fmt::format(", pid={}", rank.pid) : "";
  return number == 0 ? fmt::format("(head, rank=0{}) ", pid)
                     : fmt::format("(worker{0}, rank={0}{1}, ip={2}) ", number, pid, rank.address);
}

}  // namespace

std::optional<LogCursor> parse_log_cursor(std::string_view text) {
  if (text == "start") {
    return LogCursor{Epoch(0), {}};
  }
  const std::size_t colon = text.find(':');
  const auto attempt = parse_number(text.substr(0, colon));
  if (colon == std::string_view::npos || !attempt || *attempt < 1 || *attempt > INT32_MAX) {
    return std::nullopt;
  }
  LogCursor cursor{Epoch(static_cast<std::int32_t>(*attempt)), {}};
  if (colon + 1 == text.size()) {
    return cursor;
  }
  for (const std::string_view part : split(text.substr(colon + 1), ',')) {
    const std::size_t equals = part.find('=');
    const auto rank = parse_number(part.substr(0, equals));
    const auto offset =
        equals == std::string_view::npos ? std::nullopt : parse_number(part.substr(equals + 1));
    if (!rank || *rank < 0 || *rank > INT32_MAX || !offset || *offset < 0) {
      return std::nullopt;
    }
    cursor.offsets[static_cast<std::int32_t>(*rank)] = static_cast<std::uint64_t>(*offset);
  }
  return cursor;
}

void LogReader::begin(const job::Job& job, Epoch epoch, bool first) {
  sources_.clear();
  skip_ = 0;
  const auto& attempt = job.attempts[static_cast<std::size_t>(epoch.value() - 1)];
  several_ = attempt.ranks.size() > 1 && !wanted_.rank;
  const auto tail = static_cast<std::uint64_t>(wanted_.tail.value_or(0));
  for (std::size_t i = 0; i < attempt.ranks.size(); ++i) {
    const Rank rank(static_cast<std::int32_t>(i));
    if (wanted_.rank && *wanted_.rank != rank) {
      continue;
    }
    Source source;
    source.key = {job.id, epoch, rank};
    if (first && wanted_.from) {
      const auto place = wanted_.from->offsets.find(rank.value());
      source.at = place == wanted_.from->offsets.end() ? 0 : place->second;
    } else if (first && wanted_.tail) {
      const std::uint64_t lines = logs_.lines(source.key);
      source.at = logs_.tail(source.key, tail, lines);
      skip_ += std::min(lines, tail);
    } else if (first && wanted_.line) {
      source.at = logs_.seek_line(source.key, static_cast<std::uint64_t>(*wanted_.line));
    } else if (wanted_.since) {
      source.at = logs_.seek_time(source.key, *wanted_.since);
    }
    sources_.push_back(std::move(source));
  }
  skip_ -= std::min(skip_, tail);  // of all ranks together, the last so many count
}

LogReader::Source* LogReader::earliest() {
  if (!several_) {
    Source& only = sources_.front();
    return only.at < logs_.size(only.key) ? &only : nullptr;
  }
  Source* found = nullptr;
  for (Source& source : sources_) {
    if (!source.stretch || source.at >= source.stretch->end) {
      source.stretch.reset();
      if (source.at >= logs_.size(source.key)) {
        continue;
      }
      source.stretch = logs_.stretch(source.key, source.at);
    }
    if (found == nullptr || source.stretch->time_ms < found->stretch->time_ms) {
      found = &source;
    }
  }
  return found;
}

bool LogReader::next(const job::Job& job, MonoTime now, bool last, std::vector<Piece>& out) {
  bool moved = false;
  std::size_t left = kPiece;
  while (left > 0) {
    Source* source = earliest();
    if (source == nullptr) {
      break;
    }
    const std::uint64_t here = several_ ? source->stretch->end - source->at : left;
    auto bytes = logs_.read(source->key, source->at, std::min<std::uint64_t>(here, left));
    if (!bytes.ok() || bytes->empty()) {
      break;
    }
    moved = true;
    left -= bytes->size();
    source->at += bytes->size();
    std::string text;
    if (by_lines()) {
      take_lines(*source, *bytes, text);
      source->grown_at = now;
    } else {
      text = std::move(*bytes);
    }
    give(job, *source, std::move(text), out);
  }
  if (moved) {
    return true;
  }
  for (Source& source : sources_) {
    const bool still = wanted_.grep.empty() && now - source.grown_at >= kStill;
    if (source.partial.empty() || !(last || still)) {
      continue;
    }
    std::string text;
    take_line(std::exchange(source.partial, {}) + (last ? "\n" : ""), text);
    give(job, source, std::move(text), out);
    moved = true;
  }
  return moved;
}

std::optional<Millis> LogReader::gives_rest_in(MonoTime now) const {
  std::optional<Millis> least;
  for (const Source& source : sources_) {
    if (!source.partial.empty() && wanted_.grep.empty()) {
      const Millis wait = std::max(Millis(0), kStill - (now - source.grown_at));
      least = least ? std::min(*least, wait) : wait;
    }
  }
  return least;
}

void LogReader::give(const job::Job& job, const Source& source, std::string text,
                     std::vector<Piece>& out) {
  if (text.empty()) {
    return;
  }
  Piece piece;
  piece.text = std::move(text);
  piece.rank = source.key.rank;
  piece.next = source.at - source.partial.size();
  if (several_) {
    // The address is known only once the rank has said hello, which may be after the reader began.
    const auto& ranks = job.attempts[static_cast<std::size_t>(source.key.epoch.value() - 1)].ranks;
    piece.prefix =
        prefix_of(ranks[static_cast<std::size_t>(piece.rank.value())], piece.rank.value());
  }
  // What came of one rank at one time is one piece.
  if (!out.empty() && out.back().rank == piece.rank && out.back().prefix == piece.prefix) {
    out.back().text += piece.text;
    out.back().next = piece.next;
  } else {
    out.push_back(std::move(piece));
  }
}

std::vector<std::pair<Rank, std::uint64_t>> LogReader::places() const {
  std::vector<std::pair<Rank, std::uint64_t>> places;
  places.reserve(sources_.size());
  for (const Source& source : sources_) {
    places.emplace_back(source.key.rank, source.at - source.partial.size());
  }
  return places;
}

void LogReader::watch(const std::function<void()>& callback) {
  for (const Source& source : sources_) {
    watched_.emplace_back(source.key, logs_.watch(source.key, callback));
  }
}

void LogReader::unwatch() {
  for (const auto& [key, number] : watched_) {
    logs_.unwatch(key, number);
  }
  watched_.clear();
}

void LogReader::take_lines(Source& source, std::string_view bytes, std::string& out) {
  source.partial += bytes;
  std::size_t start = 0;
  for (std::size_t end = source.partial.find('\n'); end != std::string::npos;
       end = source.partial.find('\n', start)) {
    take_line(std::string_view(source.partial).substr(start, end - start + 1), out);
    start = end + 1;
  }
  // A progress bar has no line end until it is full.
  if (const std::size_t end = source.partial.rfind('\r');
      end != std::string::npos && end > start && wanted_.grep.empty() && skip_ == 0) {
    out.append(source.partial, start, end - start);
    start = end;
  }
  source.partial.erase(0, start);
  if (source.partial.size() > kLongestLine) {
    take_line(std::exchange(source.partial, {}) + "\n", out);
  }
}

void LogReader::take_line(std::string_view line, std::string& out) {
  if (skip_ > 0) {
    --skip_;
  } else if (wanted_.grep.empty() || line.find(wanted_.grep) != std::string_view::npos) {
    out += line;
  }
}

}  // namespace quad::server
