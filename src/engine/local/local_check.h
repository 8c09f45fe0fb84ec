// engine/local/local_check.h
//
// What this machine has and lacks for jobs, for `quad check`. Asks the GPUs' driver, as
// detect_machine() does; any thread.

#pragma once

#include <vector>

#include "engine/check.h"
#include "engine/local/local.h"

namespace quad::engine {

CheckReport check_local(const LocalOptions& options);

}  // namespace quad::engine
