{{/*
The fetcher: a native sidecar, so that it runs before the server and until it has ended. It alone writes to the volume
of models, and it alone has the sources' credentials. `windlass-fetcher --help` explains each setting.
*/}}
{{- define "windlass-server.fetcher" -}}
- name: fetcher
  image: {{ include "windlass-server.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  restartPolicy: Always
  command: [/usr/bin/tini, -s, --, windlass-fetcher]
  env:
    - name: WINDLASS_SERVER
      value: {{ include "windlass-server.name" . }}
    - name: WINDLASS_REVISION
      valueFrom: {fieldRef: {fieldPath: "metadata.annotations['windlass.dev/revision']"}}
    - name: WINDLASS_MODELS
      value: /models
    - name: WINDLASS_OPERATOR
      value: {{ include "windlass-server.operatorUrl" . }}
    - name: WINDLASS_OPERATOR_CA_FILE
      value: /etc/windlass/ca/ca.crt
    - name: WINDLASS_CONTROL_TOKEN_FILE
      value: /var/run/secrets/windlass/token
    - name: WINDLASS_PLAN_FILE
      value: /etc/windlass/plan/state.json
    - name: WINDLASS_LOG_FORMAT
      value: {{ .Values.log.format }}
    - name: WINDLASS_LOG_LEVEL
      value: {{ .Values.log.level }}
    - name: WINDLASS_MAX_BYTES
      value: {{ .Values.fetcher.maxBytes | int64 | quote }}
    {{- with .Values.fetcher.allowedHosts }}
    - name: WINDLASS_ALLOW_HOST
      value: {{ join "," . | quote }}
    {{- end }}
    {{- if .Values.fetcher.allowHTTP }}
    - name: WINDLASS_ALLOW_HTTP
      value: "true"
    {{- end }}
    {{- if .Values.fetcher.netrc.existingSecret }}
    - name: WINDLASS_NETRC_FILE
      value: /var/run/secrets/windlass-netrc/netrc
    {{- end }}
    {{- if .Values.fetcher.s3.endpoint }}
    - name: WINDLASS_S3_ENDPOINT
      value: {{ .Values.fetcher.s3.endpoint }}
    - name: WINDLASS_S3_REGION
      value: {{ .Values.fetcher.s3.region }}
    {{- if .Values.fetcher.s3.existingSecret }}
    - name: WINDLASS_S3_CREDENTIALS_DIR
      value: /var/run/secrets/windlass-s3
    {{- end }}
    {{- end }}
    {{- if .Values.fetcher.caConfigMap }}
    - name: WINDLASS_SOURCE_CA_FILE
      value: /etc/windlass/source-ca/ca.crt
    {{- end }}
    {{- with .Values.fetcher.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  resources: {{- toYaml .Values.fetcher.resources | nindent 4 }}
  securityContext: {{- include "windlass-server.containerSecurityContext" . | nindent 4 }}
  volumeMounts:
    - name: models
      mountPath: /models
      {{- with .Values.models.subPath }}
      subPath: {{ . }}
      {{- end }}
    - {name: control-token, mountPath: /var/run/secrets/windlass, readOnly: true}
    - {name: operator-ca, mountPath: /etc/windlass/ca, readOnly: true}
    - {name: plan, mountPath: /etc/windlass/plan, readOnly: true}
    {{- if .Values.fetcher.netrc.existingSecret }}
    - {name: fetcher-netrc, mountPath: /var/run/secrets/windlass-netrc, readOnly: true}
    {{- end }}
    {{- if .Values.fetcher.s3.existingSecret }}
    - {name: fetcher-s3, mountPath: /var/run/secrets/windlass-s3, readOnly: true}
    {{- end }}
    {{- if .Values.fetcher.caConfigMap }}
    - {name: fetcher-ca, mountPath: /etc/windlass/source-ca, readOnly: true}
    {{- end }}
{{- end }}

{{- define "windlass-server.fetcherVolumes" -}}
{{- if .Values.fetcher.netrc.existingSecret }}
- name: fetcher-netrc
  secret:
    secretName: {{ .Values.fetcher.netrc.existingSecret }}
    items: [{key: {{ .Values.fetcher.netrc.key }}, path: netrc}]
{{- end }}
{{- if .Values.fetcher.s3.existingSecret }}
- name: fetcher-s3
  secret: {secretName: {{ .Values.fetcher.s3.existingSecret }}}
{{- end }}
{{- if .Values.fetcher.caConfigMap }}
- name: fetcher-ca
  configMap: {name: {{ .Values.fetcher.caConfigMap }}}
{{- end }}
{{- end }}
