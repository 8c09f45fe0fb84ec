#include "engine/kubernetes/node_match.h"
