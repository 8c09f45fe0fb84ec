#include "net/room.h"

#include <arpa/inet.h>

#include <array>

namespace quad::net {

namespace {

void add_to(std::unordered_map<std::string, std::size_t>& counts, const std::string& key, int by) {
  auto& count = counts[key];
  count = by > 0 ? count + 1 : count - 1;
  if (count == 0) {
    counts.erase(key);
  }
}

}  // namespace

Room::Place Room::enter(std::string_view address, Connection* connection) {
  Guest guest;
  guest.connection = connection;
  guest.address = address;
  const auto place = guests_.insert(guests_.end(), std::move(guest));
  count(*place, +1);
  return place;
}

void Room::leave(Place place) {
  count(*place, -1);
  guests_.erase(place);
}

void Room::belong(Place place, std::string_view owner, bool kept) {
  if (place->owner == owner && place->kept == kept) {
    return;
  }
  count(*place, -1);
  place->owner = owner;
  place->kept = kept;
  count(*place, +1);
}

void Room::count(const Guest& guest, int by) {
  if (guest.owner.empty()) {
    strangers_ += static_cast<std::size_t>(by);
    add_to(strangers_from_, guest.address, by);
  } else if (!guest.kept) {
    owned_ += static_cast<std::size_t>(by);
    add_to(owned_by_, guest.owner, by);
  }
}

bool Room::has_too_many(std::string_view owner) const {
  const auto found = owned_by_.find(std::string(owner));
  return found != owned_by_.end() && found->second > std::max<std::size_t>(most_ / 2, 1);
}

std::optional<Room::Place> Room::stranger_to_go() {
  const auto crowd =
      std::max_element(strangers_from_.begin(), strangers_from_.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  if (crowd == strangers_from_.end()) {
    return std::nullopt;
  }
  const auto place = std::find_if(guests_.begin(), guests_.end(), [&](const Guest& guest) {
    return guest.owner.empty() && guest.address == crowd->first;
  });
  return place == guests_.end() ? std::nullopt : std::optional(place);
}

std::optional<Room::Place> Room::idle_to_go(std::string_view owner) {
  std::unordered_map<std::string_view, std::size_t> idle;
  std::string_view most;
  for (const Guest& guest : guests_) {
    if (!guest.busy && !guest.kept && !guest.owner.empty() &&
        (owner.empty() || guest.owner == owner) &&
        ++idle[guest.owner] > (most.empty() ? 0 : idle[most])) {
      most = guest.owner;
    }
  }
  const auto place = std::find_if(guests_.begin(), guests_.end(), [&](const Guest& guest) {
    return !guest.busy && !guest.kept && !most.empty() && guest.owner == most;
  });
  return place == guests_.end() ? std::nullopt : std::optional(place);
}

std::string address_of_peer(std::string_view peer) {
  const std::string host(peer.substr(0, peer.rfind(':')));
  if (!host.starts_with('[') || !host.ends_with(']')) {
    return host;
  }
  std::array<unsigned char, 16> bytes{};
  if (inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), bytes.data()) != 1) {
    return host;
  }
  constexpr std::size_t kNetwork = 8;  // bytes: a machine may take any address of its /64
  return {reinterpret_cast<const char*>(bytes.data()), kNetwork};
}

}  // namespace quad::net
