{{- define "loraledger.labels" -}}
app.kubernetes.io/name: loraledger
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Settings of all processes, as JSON: `settings`, and what the values say about engines. */}}
{{- define "loraledger.settings" -}}
{{- $given := .Values.settings -}}
{{- range $name, $value := dict "LORALEDGER_BASES" "bases" "LORALEDGER_ENGINE_REPLICAS" "engineReplicas" -}}
{{- if hasKey $given $name -}}
{{- fail (printf "settings: %s is set by the value `%s`, from which the chart knows the engines: use that" $name $value) -}}
{{- end -}}
{{- end -}}
{{- if .Values.bases -}}
{{- range $name := list "LORALEDGER_BASE_MODEL" "LORALEDGER_ENGINE_URLS" -}}
{{- if hasKey $given $name -}}
{{- fail (printf "settings: %s is for a single base model: omit it, or `bases`" $name) -}}
{{- end -}}
{{- end -}}
{{- if gt (int .Values.engineReplicas) 1 -}}
{{- fail "engineReplicas: it is for a single base model: give `replicas` in `bases`" -}}
{{- end -}}
{{- merge (dict "LORALEDGER_BASES" (toJson .Values.bases)) $given | toJson -}}
{{- else if gt (int .Values.engineReplicas) 1 -}}
{{- merge (dict "LORALEDGER_ENGINE_REPLICAS" (.Values.engineReplicas | int | toString)) $given | toJson -}}
{{- else -}}
{{- toJson $given -}}
{{- end -}}
{{- end -}}

{{/* How many own engines the settings name. They are numbered over all base models, from 1. */}}
{{- define "loraledger.numEngines" -}}
{{- $count := int .Values.engineReplicas -}}
{{- if .Values.bases -}}
{{- $count = 0 -}}
{{- range .Values.bases -}}
{{- if not .urls -}}
{{- $count = add $count (.replicas | default 1) -}}
{{- end -}}
{{- end -}}
{{- else if .Values.settings.LORALEDGER_ENGINE_URLS -}}
{{- $count = 0 -}}
{{- end -}}
{{- $count -}}
{{- end -}}

{{/* Name of a container, which is also that of its socket: a list of the name and a number from 1. */}}
{{- define "loraledger.numbered" -}}
{{- $number := int (last .) -}}
{{- first . -}}{{- if gt $number 1 -}}-{{ $number }}{{- end -}}
{{- end -}}

{{/* Command of a numbered process, as JSON: a list of the name, the option that has the number, and the number. */}}
{{- define "loraledger.command" -}}
{{- $number := int (last .) -}}
{{- if gt $number 1 -}}
{{- list (first .) (index . 1) (toString $number) | toJson -}}
{{- else -}}
{{- list (first .) | toJson -}}
{{- end -}}
{{- end -}}

{{/* One container: a dictionary of root, name, image, command (a list) and resources. */}}
{{- define "loraledger.container" -}}
- name: {{ .name }}
  image: "{{ .image }}:{{ .root.Values.images.tag | default .root.Chart.AppVersion }}"
  imagePullPolicy: {{ .root.Values.images.pullPolicy }}
  args: {{ .command | toJson }}
  envFrom:
    - configMapRef:
        name: {{ .root.Release.Name }}-settings
    - secretRef:
        name: {{ required "settingsSecret: name a Secret with LORALEDGER_DATABASE_URL, LORALEDGER_BROKER_URL and LORALEDGER_RPC_URL" .root.Values.settingsSecret }}
  env:
    - name: LORALEDGER_KEYSTORE_PASSWORD_FILE
      value: /run/keystore/keystore-password
  securityContext:
    readOnlyRootFilesystem: true
    allowPrivilegeEscalation: false
    capabilities:
      drop: [ALL]
  volumeMounts:
    - name: home
      mountPath: /var/lib/loraledger
    - name: deployment
      mountPath: /var/lib/loraledger/deployment.json
      subPath: deployment.json
      readOnly: true
    - name: keystore
      mountPath: /run/keystore
      readOnly: true
    - name: tmp
      mountPath: /tmp
    {{- with .root.Values.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  resources: {{ .resources | toJson }}
{{- end -}}

{{/* Probe of a process that listens on the socket of this name. It restarts nothing: the download of a base
model has no time limit, and an engine that hangs ends itself. */}}
{{- define "loraledger.socketProbe" -}}
{{- $connect := printf "import socket; socket.socket(socket.AF_UNIX).connect('/var/lib/loraledger/run/%s.sock')" . -}}
readinessProbe:
  exec:
    command: {{ list "python" "-c" $connect | toJson }}
  periodSeconds: 10
  timeoutSeconds: 5
{{- end -}}
