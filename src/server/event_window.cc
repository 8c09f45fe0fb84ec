#include "server/event_window.h"

#include <algorithm>
#include <utility>

namespace quad::server {

bool is_indexed(const store::EventFilter& filter) {
  // Events that are about no node are not in the index of nodes.
  const bool by_node = filter.node && !filter.node->empty();
  return (filter.job || by_node) && filter.kind_prefix.empty();
}

store::EventFilter first_window(store::EventFilter filter, Revision end, std::int64_t revisions) {
  const bool whole = is_indexed(filter) || end.value() - filter.after.value() <= revisions;
  filter.until = whole ? end : Revision(filter.after.value() + revisions);
  return filter;
}

}  // namespace quad::server
