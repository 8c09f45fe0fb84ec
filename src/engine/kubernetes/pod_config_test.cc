#include "engine/kubernetes/pod_config.h"
