//go:build tools

// helm, which is built as it is; this keeps what it needs in go.mod.
package tools

import _ "helm.sh/helm/v3/cmd/helm"
