// How much memory GPU models have, for tasks that ask by memory ("80GB+") instead of by name. From
// the makers' data sheets; names as SkyPilot's catalog spells them.

#include <algorithm>
#include <array>

#include "spec/readers.h"

namespace quad::spec {

namespace {

struct Model {
  std::string_view name;
  std::string_view maker;
  double gigabytes;
};

constexpr std::array<Model, 42> kModels = {{
    {"P4", "nvidia", 8},         {"RTX3070", "nvidia", 8},      {"RTX3080", "nvidia", 10},
    {"K80", "nvidia", 12},       {"RTX4070", "nvidia", 12},     {"A2", "nvidia", 16},
    {"P100", "nvidia", 16},      {"RTX4080", "nvidia", 16},     {"T4", "nvidia", 16},
    {"V100", "nvidia", 16},      {"RTX5080", "nvidia", 16},     {"RTXA4000", "nvidia", 16},
    {"A10", "nvidia", 24},       {"A10G", "nvidia", 24},        {"A30", "nvidia", 24},
    {"L4", "nvidia", 24},        {"P40", "nvidia", 24},         {"RTX3090", "nvidia", 24},
    {"RTX4090", "nvidia", 24},   {"RTXA5000", "nvidia", 24},    {"RTX5090", "nvidia", 32},
    {"V100-32GB", "nvidia", 32}, {"MI100", "amd", 32},          {"A100", "nvidia", 40},
    {"A40", "nvidia", 48},       {"L40", "nvidia", 48},         {"L40S", "nvidia", 48},
    {"RTX6000", "nvidia", 24},   {"RTX6000-Ada", "nvidia", 48}, {"RTXA6000", "nvidia", 48},
    {"A100-80GB", "nvidia", 80}, {"H100", "nvidia", 80},        {"H100-SXM", "nvidia", 80},
    {"H100-NVL", "nvidia", 94},  {"GH200", "nvidia", 96},       {"RTXPRO6000", "nvidia", 96},
    {"MI250", "amd", 128},       {"H200", "nvidia", 141},       {"B200", "nvidia", 180},
    {"MI300X", "amd", 192},      {"B300", "nvidia", 288},       {"MI355X", "amd", 288},
}};

}  // namespace

std::vector<std::string_view> gpus_by_memory(double gigabytes, bool at_least,
                                             std::string_view manufacturer) {
  std::vector<std::string_view> names;
  for (const Model& model : kModels) {
    const bool fits = at_least ? model.gigabytes >= gigabytes : model.gigabytes == gigabytes;
    if (fits && (manufacturer.empty() || manufacturer == model.maker)) {
      names.push_back(model.name);
    }
  }
  return names;
}

}  // namespace quad::spec
