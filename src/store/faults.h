// store/faults.h
//
// What is wrong with a database: its file, its records, and how they fit together.

#pragma once

#include <string>
#include <vector>

#include "store/connection.h"

namespace quad::store {

/// Every fault found, as sentences; empty when there is none. Reads everything, in one transaction:
/// seconds for a large database. `db` has no transaction open.
Result<std::vector<std::string>> find_faults(Connection& db);

/// Those of them that are numbers of jobs or events which are missing.
Result<std::vector<std::string>> find_gaps(const Connection& db);

}  // namespace quad::store
