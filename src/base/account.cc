#include "base/account.h"

#include <fmt/format.h>

#include <limits>

namespace quad {
namespace {

Result<std::uint32_t> id_of(const json::value* value, std::string_view name) {
  // The greatest is what chown and setresuid take for "leave it as it is".
  constexpr std::int64_t kMost = std::numeric_limits<std::uint32_t>::max() - 1LL;
  if (value == nullptr || !value->is_int64() || value->get_int64() < 0 ||
      value->get_int64() > kMost) {
    return error(ErrorCode::kInvalid,
                 fmt::format("\"{}\" of an account must be a number from 0 to {}", name, kMost));
  }
  return static_cast<std::uint32_t>(value->get_int64());
}

}  // namespace

json::object to_json(const Account& account) {
  json::array groups;
  for (const std::uint32_t group : account.groups) {
    groups.emplace_back(std::int64_t{group});
  }
  return {{"uid", std::int64_t{account.uid}},
          {"gid", std::int64_t{account.gid}},
          {"groups", std::move(groups)},
          {"name", account.name}};
}

Result<Account> account_from_json(const json::object& object) {
  Account account;
  QUAD_ASSIGN(account.uid, id_of(object.if_contains("uid"), "uid"));
  QUAD_ASSIGN(account.gid, id_of(object.if_contains("gid"), "gid"));
  if (const json::array* groups = get_array(object, "groups")) {
    for (const json::value& group : *groups) {
      QUAD_ASSIGN(const std::uint32_t id, id_of(&group, "groups"));
      account.groups.push_back(id);
    }
  }
  account.name = get_string(object, "name");
  return account;
}

}  // namespace quad
