// engine/kubernetes/views/test_request.h
//
// What the tests of manifests begin from: rank 1 of a gang of two, and a server's settings. For
// tests.

#pragma once

#include "engine/kubernetes/views/pod_request.h"

namespace quad::kubernetes {

inline PodRequest request() {
  PodRequest one;
  one.key = {JobId(17), Epoch(2), Rank(1)};
  one.job_name = "train";
  one.owner = "ana@example.edu";
  one.ranks = 2;
  one.node = NodeId("gpu-07");
  one.amount = {8'000, 32'000'000'000, 2};
  one.gpu_resource = "nvidia.com/gpu";
  one.image = "nvcr.io/nvidia/pytorch:25.10-py3";
  return one;
}

inline PodSettings settings() {
  PodSettings some;
  some.server = "1a2b3c4d";
  some.namespace_name = "jobs";
  some.root_name = "quad-1a2b3c4d";
  some.root_uid = "root-uid";
  some.server_url = "https://quad.quad.svc:8470";
  some.quad_image = "registry.example.edu/quad:0.1";
  some.default_image = "docker.io/library/python:3.12";
  return some;
}

}  // namespace quad::kubernetes
