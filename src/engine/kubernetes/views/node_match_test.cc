#include "engine/kubernetes/views/node_match.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "engine/kubernetes/views/test_json.h"

namespace quad::kubernetes {
namespace {

NodeView node_of(std::string_view taints, std::string_view labels = "{}") {
  return *read_node(object_of(
      fmt::format(R"({{"metadata": {{"name": "n1", "labels": {}}}, "spec": {{"taints": {}}}}})",
                  labels, taints)));
}

struct Toleration {
  std::string_view toleration;
  bool tolerated;
};

TEST(NodeMatch, KnowsWhichTaintsAreTolerated) {
  const Taint taint{"team", "a", "NoSchedule", {}};
  const Toleration cases[] = {
      {R"({"key": "team", "operator": "Exists", "effect": "NoSchedule"})", true},
      {R"({"key": "team", "operator": "Exists"})", true},
      {R"({"operator": "Exists"})", true},
      {R"({"key": "team", "value": "a", "effect": "NoSchedule"})", true},
      {R"({"key": "team", "operator": "Equal", "value": "b"})", false},
      {R"({"key": "team", "operator": "Exists", "effect": "NoExecute"})", false},
      {R"({"key": "other", "operator": "Exists"})", false},
      {R"({"value": "a"})", false},
  };
  for (const Toleration& one : cases) {
    EXPECT_EQ(tolerates(json::array{json::value(object_of(one.toleration))}, taint), one.tolerated)
        << one.toleration;
  }
}

struct Refusal {
  std::string_view spec;
  std::string_view labels;
  std::string_view words;
};

std::string affinity(std::string_view terms) {
  return fmt::format(
      R"({{"affinity": {{"nodeAffinity": {{"requiredDuringSchedulingIgnoredDuringExecution":
         {{"nodeSelectorTerms": {}}}}}}}}})",
      terms);
}

TEST(NodeMatch, SaysWhyAPodCannotRunThere) {
  constexpr std::string_view kNotAllowed = "is not among those that the job's node affinity allows";
  const std::string in = affinity(
      R"([{"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a", "b"]}]}])");
  const std::string not_in = affinity(
      R"([{"matchExpressions": [{"key": "pool", "operator": "NotIn", "values": ["a"]}]}])");
  const std::string more =
      affinity(R"([{"matchExpressions": [{"key": "mem", "operator": "Gt", "values": ["500"]}]}])");
  const std::string either = affinity(
      R"([{"matchExpressions": [{"key": "pool", "operator": "Exists"}]}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}])");
  const std::string another = affinity(
      R"([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}])");
  const std::string empty = affinity("[{}]");
  const Refusal cases[] = {
      {"{}", "{}", ""},
      {R"({"nodeSelector": {"pool": "a"}})", R"({"pool": "a"})", ""},
      {R"({"nodeSelector": {"pool": "a"}})", R"({"pool": "b"})",
       "lacks the label pool=a, which the job selects"},
      {in, R"({"pool": "b"})", ""},
      {in, "{}", kNotAllowed},
      {not_in, "{}", ""},
      {not_in, R"({"pool": "a"})", kNotAllowed},
      {more, R"({"mem": "1000"})", ""},
      {more, R"({"mem": "500"})", kNotAllowed},
      {more, R"({"mem": "much"})", kNotAllowed},
      {either, "{}", ""},
      {another, "{}", kNotAllowed},
      {empty, "{}", kNotAllowed},
  };
  for (const Refusal& one : cases) {
    EXPECT_EQ(node_refusal(object_of(one.spec), node_of("[]", one.labels)), one.words)
        << one.spec << " on " << one.labels;
  }
}

TEST(NodeMatch, HeedsTaintsButNotThoseOfANodeThatIsUnwell) {
  const json::object gpu = object_of(
      R"({"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]})");
  EXPECT_EQ(
      node_refusal(
          gpu,
          node_of(R"([{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}])")),
      "");
  EXPECT_EQ(
      node_refusal(
          {},
          node_of(R"([{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}])")),
      "has the taint nvidia.com/gpu=present:NoSchedule, which the job does not tolerate");
  EXPECT_EQ(node_refusal({}, node_of(R"([{"key": "soft", "effect": "PreferNoSchedule"}])")), "");
  EXPECT_EQ(node_refusal(
                {}, node_of(R"([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}])")),
            "");
  EXPECT_EQ(
      node_refusal(
          {},
          node_of(
              R"([{"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}])")),
      "has the taint node.kubernetes.io/out-of-service=nodeshutdown:NoExecute, which the job does "
      "not tolerate");
}

}  // namespace
}  // namespace quad::kubernetes
