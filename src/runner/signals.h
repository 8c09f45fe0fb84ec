// runner/signals.h
//
// The signals that concern a runner: SIGTERM and SIGINT ask it to end, SIGCHLD wakes its loop. They
// are blocked except while the loop waits (poll_set.h), so nothing else is ever interrupted. For
// the runner's one thread; the only state that a signal handler can reach, a flag, lives here.

#pragma once

namespace quad::runner {

/// Once, before the loop.
void prepare_signals();

/// Whether the runner was asked to end since the last call.
bool take_end_asked();

}  // namespace quad::runner
