{{/* The replica's settings. `windlass-server --help` explains each. */}}
{{- define "windlass-server.env" -}}
- name: WINDLASS_HOST
  value: 0.0.0.0
- name: WINDLASS_SERVER
  value: {{ include "windlass-server.name" . }}
- name: WINDLASS_REPLICA
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: WINDLASS_REVISION
  valueFrom: {fieldRef: {fieldPath: "metadata.annotations['windlass.dev/revision']"}}
- name: WINDLASS_MODELS
  value: /models
- name: WINDLASS_STATE_DIR
  value: /var/lib/windlass/server
- name: WINDLASS_OPERATOR
  value: {{ include "windlass-server.operatorUrl" . }}
- name: WINDLASS_OPERATOR_CA_FILE
  value: /etc/windlass/ca/ca.crt
- name: WINDLASS_CONTROL_TOKEN_FILE
  value: /var/run/secrets/windlass/token
- name: WINDLASS_PLAN_FILE
  value: /etc/windlass/plan/state.json
- name: WINDLASS_STOP_GRACE_PERIOD
  value: {{ .Values.health.stopGracePeriod | quote }}
- name: WINDLASS_DRAIN_DELAY
  value: {{ .Values.health.drainDelay | quote }}
- name: WINDLASS_LOAD_DEADLINE
  value: {{ .Values.health.loadDeadline | quote }}
- name: WINDLASS_LOG_FORMAT
  value: {{ .Values.log.format }}
- name: WINDLASS_LOG_LEVEL
  value: {{ .Values.log.level }}
{{- if eq .Values.predictions.store "off" }}
- name: WINDLASS_PREDICTIONS
  value: "off"
{{- else }}
{{- if eq .Values.predictions.store "postgresql" }}
- name: WINDLASS_PREDICTIONS_FILE
  value: /var/run/secrets/windlass-predictions/url
{{- end }}
- name: WINDLASS_PREDICTIONS_SAMPLE
  value: {{ .Values.predictions.sample | quote }}
- name: WINDLASS_PREDICTIONS_MAX_BYTES
  value: {{ .Values.predictions.maxBytes | int64 | quote }}
- name: WINDLASS_PREDICTIONS_MAX_DAYS
  value: {{ .Values.predictions.maxDays | quote }}
{{- end }}
{{- if .Values.apiKeys.existingSecret }}
- name: WINDLASS_API_KEY_FILE
  value: /var/run/secrets/windlass-api-keys/keys
{{- end }}
{{- if .Values.tls.existingSecret }}
- name: WINDLASS_TLS_CERTIFICATE_FILE
  value: /var/run/secrets/windlass-tls/tls.crt
- name: WINDLASS_TLS_KEY_FILE
  value: /var/run/secrets/windlass-tls/tls.key
{{- end }}
{{- with .Values.corsOrigins }}
- name: WINDLASS_CORS_ORIGIN
  value: {{ join "," . | quote }}
{{- end }}
{{- with .Values.models.allowOperations }}
- name: WINDLASS_ALLOW_OPERATION
  value: {{ join "," . | quote }}
{{- end }}
{{- if .Values.models.requireConfinement }}
- name: WINDLASS_REQUIRE_CONFINEMENT
  value: "true"
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "windlass-server.mounts" -}}
- name: models
  mountPath: /models
  readOnly: true
  {{- with .Values.models.subPath }}
  subPath: {{ . }}
  {{- end }}
- {name: state, mountPath: /var/lib/windlass/server}
- {name: tmp, mountPath: /tmp}
- {name: control-token, mountPath: /var/run/secrets/windlass, readOnly: true}
- {name: operator-ca, mountPath: /etc/windlass/ca, readOnly: true}
- {name: plan, mountPath: /etc/windlass/plan, readOnly: true}
{{- if eq .Values.predictions.store "postgresql" }}
- {name: predictions, mountPath: /var/run/secrets/windlass-predictions, readOnly: true}
{{- end }}
{{- if .Values.apiKeys.existingSecret }}
- {name: api-keys, mountPath: /var/run/secrets/windlass-api-keys, readOnly: true}
{{- end }}
{{- if .Values.tls.existingSecret }}
- {name: tls, mountPath: /var/run/secrets/windlass-tls, readOnly: true}
{{- end }}
{{- end }}

{{/* The image that the models are in: the value's at first, then what the operator mounted since. */}}
{{- define "windlass-server.modelsImage" -}}
{{- $reference := .Values.models.image.reference }}
{{- $live := lookup "apps/v1" "Deployment" (include "windlass-server.namespace" .) (include "windlass-server.name" .) }}
{{- range dig "spec" "template" "spec" "volumes" list ($live | default dict) }}
{{- if and (eq .name "models") .image }}
{{- $reference = .image.reference }}
{{- end }}
{{- end }}
{{- $reference }}
{{- end }}

{{- define "windlass-server.volumes" -}}
- name: models
  {{- if include "windlass-server.claim" . }}
  persistentVolumeClaim: {claimName: {{ include "windlass-server.claim" . }}{{ if not .Values.fetcher.enabled }}, readOnly: true{{ end }}}
  {{- else if .Values.models.hostPath }}
  hostPath: {path: {{ .Values.models.hostPath }}, type: Directory}
  {{- else if .Values.models.image.reference }}
  image: {reference: {{ include "windlass-server.modelsImage" . | quote }}, pullPolicy: {{ .Values.models.image.pullPolicy }}}
  {{- else if .Values.models.emptyDir.enabled }}
  emptyDir: {sizeLimit: {{ .Values.models.emptyDir.sizeLimit }}}
  {{- else }}
  nfs: {server: {{ .Values.models.nfs.server }}, path: {{ .Values.models.nfs.path }}{{ if not .Values.fetcher.enabled }}, readOnly: true{{ end }}}
  {{- end }}
- name: state
  emptyDir: {sizeLimit: {{ .Values.state.sizeLimit }}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
# The only token: good for nothing but the operator's control endpoint.
- name: control-token
  projected:
    sources:
      - serviceAccountToken:
          path: token
          audience: windlass-operator
          expirationSeconds: {{ .Values.operator.tokenExpirationSeconds }}
# Not optional: without it a replica couldn't tell the operator from somebody else. Pods wait until it is there.
- name: operator-ca
  configMap: {name: {{ .Values.operator.caConfigMap }}}
# What to start on when no operator is in reach. There is none before the first version.
- name: plan
  configMap: {name: {{ include "windlass-server.name" . }}-windlass-plan, optional: true}
{{- if eq .Values.predictions.store "postgresql" }}
- name: predictions
  secret:
    secretName: {{ .Values.predictions.existingSecret.name }}
    items: [{key: {{ .Values.predictions.existingSecret.key }}, path: url}]
{{- end }}
{{- if .Values.fetcher.enabled }}
{{- with include "windlass-server.fetcherVolumes" . | trim }}
{{ . }}
{{- end }}
{{- end }}
{{- if .Values.apiKeys.existingSecret }}
- name: api-keys
  secret:
    secretName: {{ .Values.apiKeys.existingSecret }}
    items: [{key: {{ .Values.apiKeys.key }}, path: keys}]
{{- end }}
{{- if .Values.tls.existingSecret }}
- name: tls
  secret: {secretName: {{ .Values.tls.existingSecret }}}
{{- end }}
{{- end }}
