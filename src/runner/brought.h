// runner/brought.h
//
// The memory of what was brought to a place: with it a workdir or a mount that is brought again is
// a sync. What is brought wins over what is there, whatever type that has; what was brought before
// and is not brought any more goes; what tasks wrote stays.
//
// The memory is a folder of lists beside the runner's files, one for each place and bringing. A
// list is written before what it tells of is made, so that a bringing that was killed is still
// known, and the next one clears up after it. It is not synced: with its machine a HOME is lost
// too.
//
//   LISTS/live-KEY        locked by the runner of rank KEY for as long as that lives
//   LISTS/PLACE/lock      one bringing at a time to a place
//   LISTS/PLACE/KEY.HEX   a list: records `KIND A B PATH`, each ended by a zero byte
//
// What a rank that still runs has brought stays until that has ended, so that a task that brings
// another workdir to the same cluster takes no file from those that run there. And an entry goes
// only if it is as it was brought: one that a task has written since is the task's.
//
// Every name is looked up by descriptor, and no link below the place is followed. Blocks; for one
// process that brings (mounts.h). Paths are relative to the place; empty for the place itself.

#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "base/result.h"

namespace quad::runner {

/// Enough of an entry to tell whether it is still as it was brought.
struct Fact {
  enum class Kind : char {
    kFile = 'f',  ///< a: size, b: time of its last change, in ns
    kLink = 'l',  ///< a: hash of where it leads
    kFolder = 'd',
    kObject = 'o',      ///< a file or link of git's, of which a and b begin the name; see git.h
    kRepository = 'g',  ///< a folder that is git's as a whole
  };
  Kind kind = Kind::kFile;
  std::uint64_t a = 0;
  std::uint64_t b = 0;

  static Fact file(std::uint64_t size, const timespec& time);
  static Fact link(std::string_view target);
  static Fact folder() { return {Kind::kFolder, 0, 0}; }
  [[nodiscard]] bool is_folder() const {
    return kind == Kind::kFolder || kind == Kind::kRepository;
  }
};

/// Of an entry that is there: kNotFound, or kInvalid for a device or the like.
Result<Fact> fact_at(int parent, const std::string& name);

/// Held by the runner of `key` for as long as its rank may use what it brought.
Result<UniqueFd> hold_brought(int lists, std::string_view key);

class Brought {
 public:
  /// Waits until nobody else brings to `place`. `shown` is its name in messages.
  static Result<Brought> open(int lists, const std::filesystem::path& place, std::string_view key,
                              std::string shown);

  /// The name of what is made before it gets its own, in the same folder.
  [[nodiscard]] const std::string& temporary() const { return temporary_; }
  [[nodiscard]] std::string shown(const std::string& path) const;

  /// `path`, which is `name` in the folder `parent`, is about to be brought. What is in its way is
  /// removed; kExists if it is a folder with files of others.
  Status expect(int parent, const std::string& name, const std::string& path, const Fact& fact);
  /// The same of one that was expected, now that more is known of it.
  Status know(const std::string& path, const Fact& fact);
  /// What this bringing has said of `path`; null: nothing.
  [[nodiscard]] const Fact* expected(const std::string& path) const;
  /// What earlier ones have.
  [[nodiscard]] bool was_brought(const std::string& path, Fact::Kind kind) const;
  /// Whether another bringing of this rank has.
  [[nodiscard]] bool was_brought_now(const std::string& path) const;

  /// All has been brought: what was only brought before goes.
  Status finish();
  /// It cannot be brought: what was not there before goes.
  void undo();
  /// What tasks had written and is now as it was brought, in a sentence; empty if there is nothing.
  [[nodiscard]] std::string story() const;

 private:
  using Facts = std::unordered_map<std::string, Fact>;
  struct List {
    std::string file;  // in `folder_`
    std::string place;
    Facts facts;
    bool live = false;
  };

  Brought() = default;
  static Result<List> read_list(int folder, const std::string& file);
  Status read_lists(int lists);
  void read_other_places();
  [[nodiscard]] bool is_known(int parent, const std::string& name, const std::string& path);
  Status make_way(int parent, const std::string& name, const std::string& path);
  Status append(const std::string& path, const Fact& fact);
  void remove(const std::vector<std::string>& paths);
  void tell_of(const std::string& path);

  UniqueFd lists_;
  UniqueFd folder_;  // LISTS/PLACE
  UniqueFd lock_;
  UniqueFd journal_;
  std::string folder_name_;
  std::filesystem::path place_;
  std::string shown_;
  std::string file_;
  std::string temporary_;
  Facts own_;
  std::vector<List> before_;
  std::vector<List> elsewhere_;  // of places that hold this one or lie in it
  bool knows_elsewhere_ = false;
  std::uint64_t overwritten_ = 0;
  std::string examples_;
};

}  // namespace quad::runner
