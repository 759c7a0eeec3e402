{{- define "loraledger.labels" -}}
app.kubernetes.io/name: loraledger
app.kubernetes.io/instance: {{ .Release.Name }}
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
  resources: {{ .resources | toJson }}
{{- end -}}

{{/* Probes of a process that listens on the socket of this name. */}}
{{- define "loraledger.socketProbes" -}}
{{- $connect := printf "import socket; socket.socket(socket.AF_UNIX).connect('/var/lib/loraledger/run/%s.sock')" . -}}
startupProbe:
  exec:
    command: {{ list "python" "-c" $connect | toJson }}
  periodSeconds: 10
  failureThreshold: 60
livenessProbe:
  exec:
    command: {{ list "python" "-c" $connect | toJson }}
  periodSeconds: 10
{{- end -}}
