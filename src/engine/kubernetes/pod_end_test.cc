#include "engine/kubernetes/pod_end.h"
