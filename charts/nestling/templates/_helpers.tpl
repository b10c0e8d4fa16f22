{{/* Names are fixed: the operator identifies its agents by them, and a cluster has one installation. */}}

{{- define "nestling.labels" -}}
app.kubernetes.io/name: nestling
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "nestling.operator.selector" -}}
app.kubernetes.io/name: nestling
app.kubernetes.io/component: operator
{{- end }}

{{- define "nestling.controlAPI.selector" -}}
app.kubernetes.io/name: nestling
app.kubernetes.io/component: control-api
{{- end }}

{{- define "nestling.agent.selector" -}}
app.kubernetes.io/name: nestling
app.kubernetes.io/component: node-agent
{{- end }}

{{- define "nestling.image" -}}
{{- $image := index . 0 -}}{{- $root := index . 1 -}}
{{ $root.Values.image.registry }}/{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end }}

{{- define "nestling.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* The agents use the host network and the runtime's socket. Fails at installation, not later in the events of a DaemonSet. */}}
{{- define "nestling.checkNamespace" -}}
{{- $namespace := lookup "v1" "Namespace" "" .Release.Namespace -}}
{{- if $namespace -}}
{{- $level := dig "metadata" "labels" "pod-security.kubernetes.io/enforce" "privileged" $namespace -}}
{{- if ne $level "privileged" -}}
{{- fail (printf "namespace %s enforces Pod Security %q, which keeps the node agents from starting; run: kubectl label namespace %s pod-security.kubernetes.io/enforce=privileged --overwrite" .Release.Namespace $level .Release.Namespace) -}}
{{- end -}}
{{- end -}}
{{- end }}
