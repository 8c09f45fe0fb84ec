#include "net/room.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace quad::net {
namespace {

/// Lets `count` strangers in from an address.
std::vector<Room::Place> crowd(Room& room, const std::string& address, int count) {
  std::vector<Room::Place> places;
  for (int i = 0; i < count; ++i) {
    places.push_back(room.enter(address, nullptr));
  }
  return places;
}

TEST(Room, ACrowdTakesItsOwnPlacesAway) {
  Room room(100);
  const auto alone = room.enter("10.0.0.1", nullptr);
  const auto many = crowd(room, "10.0.0.2", 50);
  EXPECT_TRUE(room.is_crowded());
  EXPECT_EQ(room.stranger_to_go(), many.front()) << "the one that has waited longest of the crowd";
  room.leave(many.front());
  EXPECT_FALSE(room.is_crowded());
  EXPECT_EQ(room.stranger_to_go(), many[1]);
  EXPECT_NE(room.stranger_to_go(), alone);
}

TEST(Room, WhoHasShownATokenIsNoStrangerAndStaysWhileAtWork) {
  Room room(4);
  const auto alice = room.enter("10.0.0.1", nullptr);
  room.belong(alice, "alice", false);
  const auto bob = room.enter("10.0.0.1", nullptr);
  room.belong(bob, "bob", false);
  alice->busy = true;
  EXPECT_EQ(room.stranger_to_go(), std::nullopt);
  EXPECT_EQ(room.idle_to_go(), bob);
  bob->busy = true;
  EXPECT_EQ(room.idle_to_go(), std::nullopt);
}

TEST(Room, OfThoseBetweenTwoRequestsTheOwnerWithTheMostGoesFirst) {
  Room room(10);
  const auto alice = room.enter("a", nullptr);
  room.belong(alice, "alice", false);
  const auto many = crowd(room, "b", 3);
  for (const auto& one : many) {
    room.belong(one, "bob", false);
  }
  EXPECT_EQ(room.idle_to_go(), many.front());
  EXPECT_EQ(room.idle_to_go("alice"), alice);
}

TEST(Room, OneOwnerHasHalfAndAllOwnersThreeQuarters) {
  Room room(8);
  for (const auto& one : crowd(room, "a", 5)) {
    EXPECT_FALSE(room.has_too_many("alice"));
    room.belong(one, "alice", false);
  }
  EXPECT_TRUE(room.has_too_many("alice"));
  EXPECT_FALSE(room.have_too_many());
  for (const auto& one : crowd(room, "b", 2)) {
    room.belong(one, "bob", false);
  }
  EXPECT_TRUE(room.have_too_many());
}

TEST(Room, ThoseForWhomRoomIsKeptCountAgainstNobody) {
  Room room(8);
  for (const auto& one : crowd(room, "a", 8)) {
    room.belong(one, "attempt 7.1", true);
  }
  EXPECT_TRUE(room.full());
  EXPECT_FALSE(room.is_crowded());
  EXPECT_FALSE(room.have_too_many());
  EXPECT_FALSE(room.has_too_many("attempt 7.1"));
  EXPECT_EQ(room.idle_to_go(), std::nullopt) << "and are not sent away";
}

TEST(Room, APeerIsItsAddressAndOfIPv6ItsNetwork) {
  EXPECT_EQ(address_of_peer("10.0.0.3:51234"), "10.0.0.3");
  EXPECT_EQ(address_of_peer("unix"), "unix");
  EXPECT_EQ(address_of_peer("[2001:db8::1]:80"), address_of_peer("[2001:db8::ffff:2]:90"));
  EXPECT_NE(address_of_peer("[2001:db8::1]:80"), address_of_peer("[2001:db8:0:1::1]:80"));
}

}  // namespace
}  // namespace quad::net
