// spec/accelerators.h
//
// The many ways of writing `accelerators`: a name, name:count, a set, an ordered list, or memory
// instead of a name. Internal to spec; pure.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "spec/diagnostic.h"
#include "spec/node.h"
#include "spec/task.h"

namespace quad::spec {

/// One candidate as text ("H100:8") with its place.
struct AcceleratorChoice {
  std::string text;
  bool by_name = true;  ///< false: found by its memory
  Mark mark;
};

struct AcceleratorChoices {
  std::vector<AcceleratorChoice> choices;
  bool ordered = false;
};

/// What a non-null `accelerators` asks for, repeats left out. Empty if it was wrong, which is then
/// reported.
std::optional<AcceleratorChoices> expand_accelerators(const Node& node, const std::string& path,
                                                      Issues& issues);

/// "H100:8" → name and count. Empty if it was wrong, which is then reported.
std::optional<AcceleratorRequest> read_accelerator(const AcceleratorChoice& choice,
                                                   const std::string& path, Issues& issues);

/// One alternative: a checked mapping of resources with at most one accelerator. A hook that its
/// autostop has goes to `hook` if there is none yet. Empty if it was wrong, which is then reported.
std::optional<Resources> read_candidate(const Node& node, std::string path,
                                        const AcceleratorChoice* accelerator,
                                        std::optional<Hook>& hook, Issues& issues);

}  // namespace quad::spec
