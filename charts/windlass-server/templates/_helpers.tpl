{{/* The server's name is the release's: ModelVersions name it, Pods are labelled with it. */}}
{{- define "windlass-server.name" -}}
{{ .Release.Name }}
{{- end }}

{{/* The one place that says where the release goes. */}}
{{- define "windlass-server.namespace" -}}
{{ .Release.Namespace }}
{{- end }}

{{- define "windlass-server.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "windlass-server.name" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "windlass-server.selectorLabels" -}}
app.kubernetes.io/name: windlass-server
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* On Pods: nothing that changes with the chart alone, which would restart them. */}}
{{- define "windlass-server.podLabels" -}}
{{ include "windlass-server.selectorLabels" . }}
windlass.dev/server: {{ include "windlass-server.name" . | quote }}
app.kubernetes.io/component: server
app.kubernetes.io/part-of: windlass
{{- with .Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "windlass-server.labels" -}}
{{ include "windlass-server.selectorLabels" . }}
windlass.dev/server: {{ include "windlass-server.name" . | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: server
app.kubernetes.io/part-of: windlass
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "windlass-server.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ with .variant }}-{{ . }}{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "windlass-server.operatorUrl" -}}
{{ .Values.operator.url | default (printf "https://windlass-operator.%s.svc:8010" .Values.operator.namespace) }}
{{- end }}

{{/* The claim that holds the models; empty when it is no claim. */}}
{{- define "windlass-server.claim" -}}
{{ .Values.models.existingClaim | default (ternary (printf "%s-models" (include "windlass-server.name" .)) "" .Values.models.claim.create) }}
{{- end }}

{{/* Whether there can be more than one replica: "yes" or nothing. */}}
{{- define "windlass-server.several" -}}
{{- if .Values.autoscaling.enabled }}
{{- if gt (int .Values.autoscaling.minReplicas) 1 }}yes{{ end }}
{{- else if or (kindIs "invalid" .Values.replicas) (gt (int .Values.replicas) 1) }}yes{{ end }}
{{- end }}

{{/*
The probes, from the numbers of `health`: what Docker asks by one HEALTHCHECK, Kubernetes asks by three.
`/livez` looks at nothing outside the process, so that no model and no database makes the kubelet kill a replica.
*/}}
{{- define "windlass-server.probes" -}}
{{- $scheme := ternary "HTTPS" "HTTP" (not (empty .Values.tls.existingSecret)) }}
{{- with .Values.health }}
startupProbe:
  httpGet: {path: /livez, port: http, scheme: {{ $scheme }}}
  periodSeconds: {{ .startInterval }}
  timeoutSeconds: {{ .timeout }}
  failureThreshold: {{ add (divf .startPeriod .startInterval | ceil) .retries }}
livenessProbe:
  httpGet: {path: /livez, port: http, scheme: {{ $scheme }}}
  periodSeconds: {{ .interval }}
  timeoutSeconds: {{ .timeout }}
  failureThreshold: {{ .retries }}
readinessProbe:
  httpGet: {path: /readyz, port: http, scheme: {{ $scheme }}}
  periodSeconds: {{ .interval }}
  timeoutSeconds: {{ .timeout }}
  failureThreshold: {{ .retries }}
{{- end }}
{{- end }}

{{/* Of the Pods; in development a changed file has to get into the container. */}}
{{- define "windlass-server.podSecurityContext" -}}
{{- if .Values.development.enabled -}}
runAsUser: 0
runAsGroup: 0
seccompProfile: {type: RuntimeDefault}
{{- else -}}
{{ toYaml .Values.podSecurityContext }}
{{- end }}
{{- end }}

{{/* Same in every container of the chart. */}}
{{- define "windlass-server.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: {{ not .Values.development.enabled }}
capabilities: {drop: [ALL]}
{{- end }}
