#include "engine/kubernetes/event_view.h"
