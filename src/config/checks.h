// config/checks.h
//
// Checks of the configuration that stand apart from its reading. Internal to config; pure.

#pragma once

#include "config/resolve.h"
#include "spec/diagnostic.h"
#include "spec/node.h"

namespace quad::config {

/// Keys that people know from elsewhere, such as SkyPilot's configuration, and that Quad has no use
/// for: reports what there is instead, and takes them out.
void explain_others(spec::Node& root, spec::Issues& issues);

/// Secrets stand in clear nowhere: not in what is merged into pods either.
void refuse_secrets(const Settings& settings, spec::Issues& issues);

}  // namespace quad::config
