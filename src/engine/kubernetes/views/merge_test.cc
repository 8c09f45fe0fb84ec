#include "engine/kubernetes/views/merge.h"

#include <gtest/gtest.h>

#include "engine/kubernetes/views/test_json.h"

namespace quad::kubernetes {
namespace {

struct Case {
  std::string_view what;
  std::string_view base;
  std::string_view over;
  std::string_view result;
};

TEST(MergePodConfig, FollowsSkyPilotsRules) {
  const Case cases[] = {
      {"mappings are merged key by key", R"({"a": {"x": 1, "y": 2}})", R"({"a": {"y": 3, "z": 4}})",
       R"({"a": {"x": 1, "y": 3, "z": 4}})"},
      {"a new key is taken over whole", R"({})", R"({"spec": {"tolerations": [{"key": "k"}]}})",
       R"({"spec": {"tolerations": [{"key": "k"}]}})"},
      {"a plain value is replaced", R"({"runtimeClassName": "a"})", R"({"runtimeClassName": "b"})",
       R"({"runtimeClassName": "b"})"},
      {"the one container is merged with the first",
       R"({"containers": [{"name": "rank", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]})",
       R"({"containers": [{"resources": {"limits": {"memory": "2Gi"}}}]})",
       R"({"containers": [{"name": "rank", "resources": {"limits": {"cpu": "1", "memory": "2Gi"}}}]})"},
      {"the one pull secret is merged with the first", R"({"imagePullSecrets": [{"name": "a"}]})",
       R"({"imagePullSecrets": [{"name": "b"}]})", R"({"imagePullSecrets": [{"name": "b"}]})"},
      {"a pull secret where there is none is added", R"({"imagePullSecrets": []})",
       R"({"imagePullSecrets": [{"name": "b"}]})", R"({"imagePullSecrets": [{"name": "b"}]})"},
      {"volumes are merged by name",
       R"({"volumes": [{"name": "dshm", "emptyDir": {"medium": "Memory"}}]})",
       R"({"volumes": [{"name": "dshm", "emptyDir": {"sizeLimit": "64Gi"}}, {"name": "data", "emptyDir": {}}]})",
       R"({"volumes": [{"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}},
                       {"name": "data", "emptyDir": {}}]})"},
      {"variables are merged by name", R"({"env": [{"name": "A", "value": "1"}]})",
       R"({"env": [{"name": "B", "value": "2"}, {"name": "A", "value": "3"}]})",
       R"({"env": [{"name": "A", "value": "3"}, {"name": "B", "value": "2"}]})"},
      {"init containers are merged by name", R"({"initContainers": [{"name": "i", "image": "a"}]})",
       R"({"initContainers": [{"name": "i", "image": "b"}, {"name": "j", "image": "c"}]})",
       R"({"initContainers": [{"name": "i", "image": "b"}, {"name": "j", "image": "c"}]})"},
      {"ports are merged by their number", R"({"ports": [{"containerPort": 80, "name": "a"}]})",
       R"({"ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 81}]})",
       R"({"ports": [{"containerPort": 80, "name": "a", "protocol": "TCP"}, {"containerPort": 81}]})"},
      {"host aliases are merged by address, their names appended to",
       R"({"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a"]}]})",
       R"({"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["b"]}]})",
       R"({"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a", "b"]}]})"},
      {"an item without its key is appended", R"({"env": [{"name": "A", "value": "1"}]})",
       R"({"env": [{"value": "2"}]})", R"({"env": [{"name": "A", "value": "1"}, {"value": "2"}]})"},
      {"every other list is appended to", R"({"tolerations": [{"key": "a"}], "args": ["x"]})",
       R"({"tolerations": [{"key": "a"}], "args": ["y"]})",
       R"({"tolerations": [{"key": "a"}, {"key": "a"}], "args": ["x", "y"]})"},
  };
  for (const Case& one : cases) {
    json::object base = object_of(one.base);
    const Status merged = merge_pod_config(base, object_of(one.over), "pod_config");
    ASSERT_TRUE(merged.ok()) << one.what << ": " << merged.error().message;
    EXPECT_EQ(base, object_of(one.result)) << one.what << "\n" << to_text(base);
  }
}

TEST(WithoutNulls, LeavesOutWhatSaysNothing) {
  EXPECT_EQ(without_nulls(object_of(
                R"({"a": null, "b": {"c": null, "d": 1}, "e": [{"f": null}, null, 2], "g": {}})")),
            object_of(R"({"b": {"d": 1}, "e": [{}, null, 2], "g": {}})"));
}

TEST(MergePodConfig, SaysWhereTheFormIsWrong) {
  const Case cases[] = {
      {"two containers", R"({"spec": {"containers": [{}]}})",
       R"({"spec": {"containers": [{}, {}]}})",
       "pod_config.spec.containers must be a list of exactly one mapping."},
      {"a mapping for a list", R"({"spec": {"volumes": []}})",
       R"({"spec": {"volumes": {"name": "x"}}})", "pod_config.spec.volumes must be a list."},
      {"a list for a mapping", R"({"spec": {"nodeSelector": {}}})",
       R"({"spec": {"nodeSelector": ["x"]}})", "pod_config.spec.nodeSelector must be a mapping."},
      {"a text for a mapping", R"({"spec": {"resources": {}}})", R"({"spec": {"resources": "x"}})",
       "pod_config.spec.resources must be a mapping."},
      {"a list for a text", R"({"spec": {"image": "a"}})", R"({"spec": {"image": ["a"]}})",
       "pod_config.spec.image must be a single value."},
      {"a text in a list of volumes", R"({"spec": {"volumes": []}})",
       R"({"spec": {"volumes": [{"name": "a"}, "b"]}})",
       "pod_config.spec.volumes[1] must be a mapping."},
  };
  for (const Case& one : cases) {
    json::object base = object_of(one.base);
    const Status merged = merge_pod_config(base, object_of(one.over), "pod_config");
    ASSERT_FALSE(merged.ok()) << one.what;
    EXPECT_EQ(merged.error().message, one.result);
    EXPECT_FALSE(merged.error().where.empty());
  }
}

}  // namespace
}  // namespace quad::kubernetes
