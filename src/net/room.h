// net/room.h  (inside the module only)
//
// Who is connected, and who has to go when there is no room: a book without sockets. One for TCP
// and one for unix sockets. Io thread only. Each call costs a look-up; to find who has to go,
// O(guests).
//
// Of `most` places, strangers (who have not shown yet who they are) have at most a half, one owner
// at most a half, and all owners together at most three quarters: the rest is for those for whom
// room is kept. A stranger goes before anybody else, and first the one who has waited longest of
// the address with the most strangers, so that a crowd takes its own places away. Then goes a
// connection that is between two requests, of the owner with the most of those.

#pragma once

#include <algorithm>
#include <cstddef>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

namespace quad::net {

class Connection;

class Room {
 public:
  struct Guest {
    Connection* connection = nullptr;
    std::string address;
    std::string owner;  ///< empty: a stranger
    bool kept = false;  ///< one of those for whom room is kept
    bool busy = false;  ///< with a request
  };
  using Place = std::list<Guest>::iterator;

  explicit Room(std::size_t most) : most_(most) {}

  Place enter(std::string_view address, Connection* connection);
  void leave(Place place);
  /// From now on the guest is `owner`'s; empty: a stranger again.
  void belong(Place place, std::string_view owner, bool kept);

  [[nodiscard]] bool full() const { return guests_.size() >= most_; }
  [[nodiscard]] std::size_t size() const { return guests_.size(); }
  /// Whether strangers have more than their share.
  [[nodiscard]] bool is_crowded() const { return strangers_ > std::max<std::size_t>(most_ / 2, 1); }
  /// Whether the owner has more than one may have.
  [[nodiscard]] bool has_too_many(std::string_view owner) const;
  /// Whether all owners together have.
  [[nodiscard]] bool have_too_many() const {
    return owned_ > std::max<std::size_t>(most_ * 3 / 4, 1);
  }

  // Who has to go; nothing if all are at work.
  [[nodiscard]] std::optional<Place> stranger_to_go();
  /// Of this owner, or of any that has no room kept.
  [[nodiscard]] std::optional<Place> idle_to_go(std::string_view owner = {});

 private:
  void count(const Guest& guest, int by);

  std::size_t most_;
  std::list<Guest> guests_;  ///< the first came first
  std::size_t strangers_ = 0;
  std::size_t owned_ = 0;  ///< by owners for whom no room is kept
  std::unordered_map<std::string, std::size_t> strangers_from_;  ///< by address
  std::unordered_map<std::string, std::size_t> owned_by_;
};

/// What of a peer's name ("10.0.0.3:51234") tells who it is: the address, of IPv6 its network.
std::string address_of_peer(std::string_view peer);

}  // namespace quad::net
