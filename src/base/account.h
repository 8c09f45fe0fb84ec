// base/account.h
//
// Who a rank runs as: an account of the machine, or numbers that stand for one. Plain values; how a
// user of Quad's comes to one is the engine's business. Pure, any thread.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace quad {

struct Account {
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::vector<std::uint32_t> groups;  ///< the supplementary ones
  std::string name;                   ///< USER and LOGNAME
  bool operator==(const Account&) const = default;
};

json::object to_json(const Account& account);
/// kInvalid with the member's name: whoever reads half an account must not run as root instead.
Result<Account> account_from_json(const json::object& object);

}  // namespace quad
