#include "engine/kubernetes/pod_view.h"
