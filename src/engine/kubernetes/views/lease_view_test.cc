#include "engine/kubernetes/views/lease_view.h"

#include <gtest/gtest.h>

#include "engine/kubernetes/views/test_json.h"

namespace quad::kubernetes {
namespace {

TEST(LeaseView, TellsWhenAKubeletWasHeardFrom) {
  const auto lease = read_lease(object_of(R"({
    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
    "metadata": {"name": "gpu-07", "namespace": "kube-node-lease", "resourceVersion": "48300",
                 "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "gpu-07", "uid": "6f1c0f5e"}]},
    "spec": {"holderIdentity": "gpu-07", "leaseDurationSeconds": 40, "renewTime": "2026-11-25T10:02:31.482913Z"}})"));
  ASSERT_TRUE(lease.ok());
  EXPECT_EQ(lease->node, "gpu-07");
  EXPECT_EQ(lease->holder, "gpu-07");
  EXPECT_EQ(lease->renewed, *parse_rfc3339("2026-11-25T10:02:31.482Z"));
  EXPECT_EQ(lease->duration_seconds, 40);
}

TEST(LeaseView, MayHaveNoTimeYet) {
  const auto lease =
      read_lease(object_of(R"({"metadata": {"name": "n"}, "spec": {"renewTime": null}})"));
  ASSERT_TRUE(lease.ok());
  EXPECT_EQ(lease->renewed, std::nullopt);
  EXPECT_FALSE(read_lease(json::object()).ok());
}

}  // namespace
}  // namespace quad::kubernetes
