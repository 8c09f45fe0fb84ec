//go:build tools

// kwok, as it is. It does not compile with the other programs' versions of Kubernetes' libraries.
package tools

import _ "sigs.k8s.io/kwok/cmd/kwok"
