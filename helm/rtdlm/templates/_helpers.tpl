{{/* A DNS label, begun by a letter; room is left for the index that each pod's name ends with. */}}
{{- define "rtdlm.name" -}}
{{- printf "rtdlm-%s" .Release.Name | replace "." "-" | trunc 56 | trimSuffix "-" -}}
{{- end -}}

{{- define "rtdlm.selector" -}}
app.kubernetes.io/name: rtdlm
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "rtdlm.labels" -}}
{{ include "rtdlm.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "rtdlm.claim" -}}
{{- .Values.storage.existingClaim | default (include "rtdlm.name" .) -}}
{{- end -}}

{{- define "rtdlm.image" -}}
{{- .Values.image.repository }}:{{ .Values.image.tag | default .Values.accelerator -}}
{{- end -}}

{{- define "rtdlm.out" -}}
{{- .Values.run.out | default (printf "runs/%s" .Release.Name) -}}
{{- end -}}

{{/* JAX's names of the accelerator and of the CPU, which is always needed. */}}
{{- define "rtdlm.platforms" -}}
{{- get (dict "cpu" "cpu" "gpu" "cuda,cpu" "tpu" "tpu,cpu") .Values.accelerator -}}
{{- end -}}

{{/* The devices that a pod asks for, none on CPUs. */}}
{{- define "rtdlm.devices" -}}
{{- if eq .Values.accelerator "gpu" -}}
nvidia.com/gpu: {{ int .Values.gpu.perNode }}
{{- else if eq .Values.accelerator "tpu" -}}
google.com/tpu: {{ int .Values.tpu.chipsPerNode }}
{{- end -}}
{{- end -}}

{{/* The nodes that have the accelerator, and the ones that the user wants. */}}
{{- define "rtdlm.nodeSelector" -}}
{{- if and (eq .Values.accelerator "gpu") .Values.gpu.product }}
nvidia.com/gpu.product: {{ .Values.gpu.product | quote }}
{{- end }}
{{- if eq .Values.accelerator "tpu" }}
cloud.google.com/gke-tpu-accelerator: {{ .Values.tpu.type | quote }}
cloud.google.com/gke-tpu-topology: {{ .Values.tpu.topology | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Refuses a slice that the pods do not fill: libtpu would wait for the missing. */}}
{{- define "rtdlm.check" -}}
{{- if eq .Values.accelerator "tpu" -}}
{{- $chips := 1 -}}
{{- range splitList "x" .Values.tpu.topology -}}
{{- $chips = mul $chips (atoi .) -}}
{{- end -}}
{{- $nodes := int64 .Values.nodes -}}
{{- $each := int64 .Values.tpu.chipsPerNode -}}
{{- if ne (mul $nodes $each) $chips -}}
{{- $found := printf "nodes=%d x tpu.chipsPerNode=%d are %d chips" $nodes $each (mul $nodes $each) -}}
{{- $expected := printf "tpu.topology=%s has %d" .Values.tpu.topology $chips -}}
{{- fail (printf "%s, but %s; set nodes to the slice's number of hosts" $found $expected) -}}
{{- end -}}
{{- end -}}
{{- end -}}
