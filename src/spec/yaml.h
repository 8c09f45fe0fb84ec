// spec/yaml.h
//
// YAML text → trees of Node, read as PyYAML's safe loader reads it: libyaml's grammar, YAML 1.1
// types (so `010` is 8, `1:30` is 90, `1e3` is a string), merge keys, the standard tags; like
// SkyPilot it also refuses a key given twice. Pure, any thread. Input is hostile until shown
// otherwise: size, depth and what aliases expand to are bounded, so the time is bounded too (well
// under a second for anything).

#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <vector>

#include "spec/diagnostic.h"
#include "spec/node.h"

namespace quad::spec {

struct YamlLimits {
  std::size_t text_bytes = 4U << 20U;       ///< refused before any parsing
  int depth = 100;                          ///< nested lists and mappings
  std::size_t nodes = 50'000;               ///< with every alias written out
  std::size_t expanded_bytes = 16U << 20U;  ///< of text, with every alias written out
  std::size_t tags = 100;                   ///< lines that begin with %TAG

  /// The bounds of a text of this size: what aliases make of it may be some times as much, and no
  /// more, so that a short text is always read in a short time.
  [[nodiscard]] YamlLimits for_text(std::size_t bytes) const;
};

struct YamlStream {
  std::vector<Node> documents;      ///< an empty document is a null node
  std::optional<Diagnostic> error;  ///< what stopped the reading; `documents` is then empty
};

YamlStream read_yaml(std::string_view text, const YamlLimits& limits = {});

}  // namespace quad::spec
