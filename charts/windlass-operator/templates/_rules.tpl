{{/* What it may do in each namespace that it serves. It changes no Pod and reads no Secret; with
restarts.enabled it changes the Pod template of Deployments. */}}
{{- define "windlass-operator.watchedRules" -}}
# ModelVersions: read. Nothing of them is written but their status.
- apiGroups: [windlass.dev]
  resources: [modelversions]
  verbs: [get, list, watch]
- apiGroups: [windlass.dev]
  resources: [modelversions/status]
  verbs: [patch]
# Servers: their Pods and Deployments, by label.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: {{ if .Values.restarts.enabled }}[get, list, watch, patch]{{ else }}[get, list, watch]{{ end }}
# Plan and record of each server, the CA for its replicas; acceptance samples are read. Their names aren't known here.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, create, update]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{/* Asking who a control token belongs to. It can't be narrowed to a namespace. */}}
{{- define "windlass-operator.tokenRules" -}}
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
{{- end }}

{{/* In its own namespace: the Lease, which is its Deployment's, and the certificate of the control endpoint. */}}
{{- define "windlass-operator.ownRules" -}}
- apiGroups: [apps]
  resources: [deployments]
  resourceNames: [windlass-operator]
  verbs: [get]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [windlass-operator]
  verbs: [get, update]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [windlass-operator-tls]
  verbs: [get, update]
{{- end }}

{{/* Whether a namespace that can't be seen any more was deleted: the role in it went first. Nothing is listed. */}}
{{- define "windlass-operator.namespaceRules" -}}
- apiGroups: [""]
  resources: [namespaces]
  resourceNames: {{ toJson .Values.namespaces }}
  verbs: [get]
{{- end }}
