#include "engine/kubernetes/pod_volumes.h"
