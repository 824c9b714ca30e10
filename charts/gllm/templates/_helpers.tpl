{{/*
Fill in the values that are missing. `helm upgrade --reuse-values` brings the values of the chart that was installed, and
so none of the keys that this chart has gained. Every template includes it first.
*/}}
{{- define "gllm.values" -}}
{{- include "gllm.fill" (dict "into" .Values "from" (.Files.Get "files/values.yaml" | fromYaml)) }}
{{- end }}

{{/* Keys of `from` that `into` lacks. Maps that belong to the user as a whole are not filled: null removes a key there. */}}
{{- define "gllm.fill" -}}
{{- range $key, $value := .from }}
{{- if not (hasKey $.into $key) }}
{{- $_ := set $.into $key $value }}
{{- else if and (kindIs "map" $value) (kindIs "map" (get $.into $key)) (not (has $key (list "resources" "labels"))) }}
{{- include "gllm.fill" (dict "into" (get $.into $key) "from" $value) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "gllm.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* The release's name if it contains gllm, else RELEASE-gllm. */}}
{{- define "gllm.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "gllm.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "gllm.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "gllm.selector" -}}
app.kubernetes.io/name: gllm-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gllm.labels" -}}
{{ include "gllm.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: gllm
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "gllm.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "gllm.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is needed where serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "gllm.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* The settings of the pod security standard Restricted, and a read-only root file system. */}}
{{- define "gllm.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "gllm.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The name of cluster-wide objects. Releases of the same name in other namespaces have their own. */}}
{{- define "gllm.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "gllm.fullname" .) }}
{{- end }}

{{/* The operator's rights: only the verbs that it uses. It does not read Secrets. */}}
{{- define "gllm.rules" -}}
- apiGroups: [gllm.dev]
  resources: [llmdeployments]
  verbs: [get, list, watch, patch]
- apiGroups: [gllm.dev]
  resources: [llmdeployments/status]
  verbs: [patch]
# Needed by clusters with the admission plugin OwnerReferencesPermissionEnforcement.
- apiGroups: [gllm.dev]
  resources: [llmdeployments/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [statefulsets, deployments, controllerrevisions]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
# Only events say why a StatefulSet may not create a pod.
- apiGroups: [""]
  resources: [events]
  verbs: [create, list, watch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
