// engine/engines.h
//
// Several engines as one, for a server that has more than one: this machine and two Kubernetes
// clusters, say. The nodes of the first keep the names that they have there; those of the others
// get their engine's name before theirs, "west:gpu-1", so that the records tell whose a node is
// before its engine has told of it. Orders go to the engine that the rank's node is of, and the
// observations of all to one sink. No engine knows of the others. Threads: as engine.h.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace quad::engine {

struct Named {
  std::string name;  ///< letters, digits and dashes
  std::unique_ptr<Engine> engine;
};

/// At least one.
std::unique_ptr<Engine> join(std::vector<Named> engines);

}  // namespace quad::engine
