#include "engine/kubernetes/lease_view.h"
