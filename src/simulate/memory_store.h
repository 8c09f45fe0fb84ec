// simulate/memory_store.h
//
// A store that keeps the very texts that a durable one would, in memory: what is loaded has gone
// through JSON, so a crash in the simulation loses exactly what a real one would. Can be made to
// refuse commits.

#pragma once

#include <functional>
#include <memory>

#include "store/store.h"

namespace quad::simulate {

/// `fault` is asked before each commit; an error there is the commit's, and nothing is kept of it.
std::unique_ptr<store::Store> make_memory_store(std::function<Status()> fault);

}  // namespace quad::simulate
