{{- define "windlass-operator.env" -}}
- name: WINDLASS_OPERATOR_HOST
  value: 0.0.0.0
- name: WINDLASS_OPERATOR_METRICS_HOST
  value: 0.0.0.0
- name: WINDLASS_OPERATOR_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: WINDLASS_OPERATOR_POD
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- with .Values.namespaces }}
- name: WINDLASS_OPERATOR_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
{{- if .Values.restarts.enabled }}
- name: WINDLASS_OPERATOR_RESTARTS
  value: "true"
{{- end }}
- name: WINDLASS_OPERATOR_LOG_FORMAT
  value: {{ .Values.log.format }}
- name: WINDLASS_OPERATOR_LOG_LEVEL
  value: {{ .Values.log.level }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
