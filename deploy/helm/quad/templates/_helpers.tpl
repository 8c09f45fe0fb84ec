{{- define "quad.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "quad.fullname" -}}
{{- $name := include "quad.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "quad.selectorLabels" -}}
app.kubernetes.io/name: {{ include "quad.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{- /* What Services, policies and budgets find the server's pod by: Quad gives no job a label of this prefix. The Deployment's own
selector cannot change over upgrades, and has less. */ -}}
{{- define "quad.serverLabels" -}}
{{ include "quad.selectorLabels" . }}
quad.io/role: server
{{- end -}}

{{- define "quad.labels" -}}
{{ include "quad.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "quad.image" -}}
{{- $repository := required "image.repository is needed: where the cluster pulls Quad's image from, such as registry.example.edu/quad" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "quad.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "quad.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed, as serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "quad.jobsNamespace" -}}
{{- default (printf "%s-jobs" (.Release.Namespace | trunc 58 | trimSuffix "-")) .Values.jobs.namespace -}}
{{- end -}}

{{- define "quad.makesNamespace" -}}
{{- if or .Values.jobs.createNamespace (not .Values.jobs.namespace) -}}true{{- end -}}
{{- end -}}

{{- /* What is the server's own in its namespace, as a list: where jobs run there too, they may not name it. */ -}}
{{- define "quad.ownNames" -}}
{{- $names := list (include "quad.claim" .) (include "quad.tlsSecret" .) (printf "%s-ca" (include "quad.fullname" .)) (include "quad.fullname" .) -}}
{{- with .Values.serviceMonitor.tokenSecret.name -}}{{- $names = append $names . -}}{{- end -}}
{{- range .Values.extraVolumes -}}
{{- range $kind, $source := . -}}
{{- if kindIs "map" $source -}}
{{- with $source.claimName -}}{{- $names = append $names . -}}{{- end -}}
{{- with $source.secretName -}}{{- $names = append $names . -}}{{- end -}}
{{- with $source.name -}}{{- $names = append $names . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml ($names | uniq) -}}
{{- end -}}

{{- /* A name for what belongs to the whole cluster: releases of one name may be in several namespaces. */ -}}
{{- define "quad.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "quad.fullname" .) | trunc 100 | trimSuffix "-" -}}
{{- end -}}

{{- define "quad.claim" -}}
{{- default (printf "%s-data" (include "quad.fullname" .)) .Values.persistence.existingClaim -}}
{{- end -}}

{{- define "quad.serviceUrl" -}}
{{- printf "https://%s.%s.svc:%d" (include "quad.fullname" .) .Release.Namespace (int .Values.service.port) -}}
{{- end -}}

{{- /* The engine of this cluster as the configuration has it, before the chart adds to it. */ -}}
{{- define "quad.engine" -}}
{{- $engines := default dict (default dict .Values.config).engines -}}
{{- toYaml (default dict (get $engines .Values.jobs.engine)) -}}
{{- end -}}

{{- define "quad.outOfServiceTaint" -}}
{{- $engine := include "quad.engine" . | fromYaml -}}
{{- $all := default dict (default dict .Values.config).kubernetes -}}
{{- $taint := ternary $engine.out_of_service_taint $all.out_of_service_taint (hasKey $engine "out_of_service_taint") -}}
{{- if $taint -}}true{{- end -}}
{{- end -}}

{{- /* config.yaml: what `config` says, and over it what only the chart can know. */ -}}
{{- define "quad.config" -}}
{{- $config := deepCopy (default dict .Values.config) -}}
{{- $name := .Values.jobs.engine -}}
{{- $all := default dict $config.kubernetes -}}
{{- if $all.namespace -}}
{{- fail "config.kubernetes.namespace is the chart's to say: use jobs.namespace" -}}
{{- end -}}
{{- if $all.image -}}
{{- fail "config.kubernetes.image is the chart's to say: use image.repository and image.tag" -}}
{{- end -}}
{{- $engines := default dict $config.engines -}}
{{- range $other, $engine := $engines -}}
{{- if and (kindIs "map" $engine) $engine.in_cluster (ne $other $name) -}}
{{- fail (printf "config.engines.%s.in_cluster: the engine of this cluster is %s, which the chart makes; jobs.engine names it" $other $name) -}}
{{- end -}}
{{- end -}}
{{- $engine := include "quad.engine" . | fromYaml -}}
{{- range $key := list "in_cluster" "namespace" "image" "context" "kubeconfig" -}}
{{- if hasKey $engine $key -}}
{{- fail (printf "config.engines.%s.%s is the chart's to say: use jobs.namespace and image, or another name than %s for another cluster" $name $key $name) -}}
{{- end -}}
{{- end -}}
{{- $engine = merge (dict "in_cluster" true "namespace" (include "quad.jobsNamespace" .) "image" (include "quad.image" .)) $engine -}}
{{- if not (or $engine.server_url $all.server_url) -}}
{{- $_ := set $engine "server_url" (include "quad.serviceUrl" .) -}}
{{- end -}}
{{- if and .Values.imagePullSecrets (not (or (hasKey $engine "image_pull_secrets") (hasKey $all "image_pull_secrets"))) -}}
{{- $secrets := list -}}
{{- range .Values.imagePullSecrets -}}{{- $secrets = append $secrets .name -}}{{- end -}}
{{- $_ := set $engine "image_pull_secrets" $secrets -}}
{{- end -}}
{{- if eq (include "quad.jobsNamespace" .) .Release.Namespace -}}
{{- $given := default (default list $all.reserved_names) $engine.reserved_names -}}
{{- $_ := set $engine "reserved_names" (concat $given (include "quad.ownNames" . | fromYamlArray) | uniq) -}}
{{- end -}}
{{- $_ := set $engines $name $engine -}}
{{- $_ := set $config "engines" $engines -}}
{{- $_ := set $config "listen" (default "0.0.0.0" $config.listen) -}}
{{- $_ := set $config "port" 8443 -}}
{{- if not $config.url -}}
{{- $_ := set $config "url" (ternary (printf "https://%s" .Values.ingress.host) (include "quad.serviceUrl" .) .Values.ingress.enabled) -}}
{{- end -}}
{{- $tls := dict "certificate" "/etc/quad/tls/tls.crt" "key" "/etc/quad/tls/tls.key" -}}
{{- if include "quad.tlsHasCa" . -}}
{{- $_ := set $tls "ca" "/etc/quad/tls/ca.crt" -}}
{{- end -}}
{{- $_ := set $config "tls" $tls -}}
{{- toYaml $config -}}
{{- end -}}

{{- define "quad.tlsSecret" -}}
{{- default (printf "%s-tls" (include "quad.fullname" .)) .Values.tls.secretName -}}
{{- end -}}

{{- define "quad.tlsHasCa" -}}
{{- if or (not .Values.tls.secretName) .Values.tls.secretHasCa -}}true{{- end -}}
{{- end -}}

{{- /* Names that the certificate is for, one a line. */ -}}
{{- define "quad.tlsNames" -}}
{{- $name := include "quad.fullname" . -}}
{{- $names := list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace) (printf "%s.%s.svc.%s" $name .Release.Namespace .Values.clusterDomain) "localhost" -}}
{{- if and .Values.ingress.enabled .Values.ingress.host -}}
{{- $names = append $names .Values.ingress.host -}}
{{- end -}}
{{- range .Values.tls.extraNames -}}
{{- if not (regexMatch "^[0-9.]+$|:" .) -}}{{- $names = append $names . -}}{{- end -}}
{{- end -}}
{{- join "\n" (uniq $names) -}}
{{- end -}}

{{- define "quad.tlsAddresses" -}}
{{- $addresses := list "127.0.0.1" -}}
{{- range .Values.tls.extraNames -}}
{{- if regexMatch "^[0-9.]+$|:" . -}}{{- $addresses = append $addresses . -}}{{- end -}}
{{- end -}}
{{- join "\n" (uniq $addresses) -}}
{{- end -}}

{{- /* Faults that no schema can tell. */ -}}
{{- define "quad.check" -}}
{{- if and .Values.tls.secretName .Values.tls.certManager.enabled -}}
{{- fail "tls.secretName and tls.certManager.enabled exclude each other: the certificate is from one of them" -}}
{{- end -}}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.issuerRef.name is needed: the Issuer or ClusterIssuer that signs the certificate" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.host is needed: the name that people reach the server by" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.from) (or .Values.ingress.enabled .Values.serviceMonitor.enabled (ne .Values.service.type "ClusterIP")) -}}
{{- fail "networkPolicy.from is empty, so nobody outside the jobs' pods would reach the server: name the ingress controller's, Prometheus' and people's namespaces or networks there, or set networkPolicy.enabled=false" -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (not .Values.serviceMonitor.tokenSecret.name) -}}
{{- fail "serviceMonitor.tokenSecret.name is needed: a Secret with a token that `quad token create prometheus --role viewer` made" -}}
{{- end -}}
{{- if and .Values.jobs.createNamespace (eq (include "quad.jobsNamespace" .) .Release.Namespace) -}}
{{- fail "jobs.createNamespace is for a namespace of the jobs' own: name another in jobs.namespace than the release's" -}}
{{- end -}}
{{- if not .Values.jobs.namespace -}}
{{- $before := lookup "v1" "ConfigMap" .Release.Namespace (include "quad.fullname" .) -}}
{{- $config := get (default dict (get (default dict $before) "data")) "config.yaml" | default "{}" | fromYaml -}}
{{- $engine := get (default dict $config.engines) .Values.jobs.engine | default dict -}}
{{- if eq (default "" $engine.namespace) .Release.Namespace -}}
{{- fail (printf "the jobs of this release run in namespace %s, beside the server; by default they now have one of their own. Nothing was changed, and jobs run on. Say which it is to be: jobs.namespace=%s keeps them there; or, when no job runs, jobs.namespace=%s-jobs with jobs.createNamespace=true moves them. docs/kubernetes.md, \"Where jobs run\", tells what that takes" .Release.Namespace .Release.Namespace .Release.Namespace) -}}
{{- end -}}
{{- end -}}
{{- end -}}
