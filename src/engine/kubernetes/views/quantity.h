// engine/kubernetes/views/quantity.h
//
// Kubernetes' amounts: "3950m", "131072Ki", "1.5Gi", "1e3", or a plain number in a manifest that a
// person wrote. Exact integer arithmetic, rounded up as Kubernetes itself does, and cut off at the
// largest integer. Pure, any thread.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"

namespace quad::kubernetes {

/// The amount in whole units (bytes, devices); nullopt if it is not one, or negative.
std::optional<std::int64_t> quantity_units(std::string_view text);
/// The amount in thousandths (milli-CPUs).
std::optional<std::int64_t> quantity_milli(std::string_view text);

/// The member `key` of a resource list, 0 if it is absent or no amount.
std::int64_t units_of(const json::object& list, std::string_view key);
std::int64_t milli_of(const json::object& list, std::string_view key);

/// "4", "3500m".
std::string cpu_quantity(std::int64_t milli);
/// "16G", "64Gi", "1500M", or the bytes: the shortest that is exact.
std::string byte_quantity(std::int64_t bytes);

/// Bytes for people, in binary units: "64 GiB", "1.5 GiB", "800 MiB".
std::string format_bytes(std::int64_t bytes);

}  // namespace quad::kubernetes
