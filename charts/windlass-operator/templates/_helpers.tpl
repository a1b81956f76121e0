{{/* The names are fixed: replicas find the operator at windlass-operator.<namespace>.svc. One per namespace. */}}
{{- define "windlass-operator.name" -}}
windlass-operator
{{- end }}

{{/* Of what can't have the same name in two namespaces. */}}
{{- define "windlass-operator.clusterName" -}}
windlass-operator:{{ include "windlass-operator.namespace" . }}
{{- end }}

{{/* The one place that says where the release goes. */}}
{{- define "windlass-operator.namespace" -}}
{{ .Release.Namespace }}
{{- end }}

{{- define "windlass-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "windlass-operator.name" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "windlass-operator.selectorLabels" -}}
app.kubernetes.io/name: windlass-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* On Pods: nothing that changes with the chart alone, which would restart them. */}}
{{- define "windlass-operator.podLabels" -}}
{{ include "windlass-operator.selectorLabels" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: windlass
{{- with .Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "windlass-operator.labels" -}}
{{ include "windlass-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: windlass
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "windlass-operator.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end }}
{{- end }}
{{- end }}

{{/* Same in every container of the chart. */}}
{{- define "windlass-operator.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
