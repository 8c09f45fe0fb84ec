#include "engine/kubernetes/pod_manifest.h"
