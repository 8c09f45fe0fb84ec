#include "engine/kubernetes/views/lease_view.h"

#include "engine/kubernetes/views/node_view.h"

namespace quad::kubernetes {

Result<LeaseView> read_lease(const json::object& object) {
  const json::object* metadata = get_object(object, "metadata");
  LeaseView lease;
  lease.node = metadata ? get_string(*metadata, "name") : std::string_view();
  if (lease.node.empty()) {
    return error(ErrorCode::kInvalid, "This is no Lease: it has no name");
  }
  lease.version = get_string(*metadata, "resourceVersion");
  if (const json::object* spec = get_object(object, "spec")) {
    lease.holder = get_string(*spec, "holderIdentity");
    lease.transitions = get_int(*spec, "leaseTransitions");
    lease.renewed = get_time(*spec, "renewTime");
    lease.duration_seconds = get_int(*spec, "leaseDurationSeconds", lease.duration_seconds);
  }
  return lease;
}

}  // namespace quad::kubernetes
