#include "engine/kubernetes/node_view.h"
