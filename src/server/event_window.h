// server/event_window.h
//
// How a query of the history is cut into pieces, so that no single one takes long whatever it asks
// for. Pure; any thread.

#pragma once

#include "store/store.h"

namespace quad::server {

/// Whether the store finds each event that matches without looking at others: then the limit alone
/// bounds the work. A kind has no index, so one that few events of a busy node have does not.
[[nodiscard]] bool is_indexed(const store::EventFilter& filter);

/// The first piece of what is asked for up to `end`: the same filter with an end of its own, which
/// is at most `revisions` further on where no index helps.
[[nodiscard]] store::EventFilter first_window(store::EventFilter filter, Revision end,
                                              std::int64_t revisions);

}  // namespace quad::server
