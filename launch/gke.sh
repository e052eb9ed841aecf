#!/usr/bin/env bash
# GKE: a JobSet that runs tracelift on a TPU slice, one pod for each of its hosts, from launch/gke/jobset.yaml.
#
#   launch/gke.sh --name=planner --image=IMAGE --topology=v5e:4x4 --claim=runs [FLAGS] \
#     -- train --gin_file=experiments/dial/tracelift.gin --run_dir=/runs/planner
#
#   --name=NAME            the JobSet
#   --image=IMAGE          an image of the Dockerfile here, built with EXTRAS=tpu, in a registry that the cluster reads
#   --topology=v5e:4x4     the slice, as `tracelift aot` has it: v5e, v5p or v6e, and its chips
#   --chips_per_host=4     chips of each host; all, on a slice with fewer
#   --claim=NAME           what is at /runs in the pods: this PersistentVolumeClaim, which all of them may write
#   --bucket=NAME          or this bucket, by Cloud Storage FUSE; its hierarchical namespace must be enabled
#   --service_account=default  the Kubernetes service account of the pods, which must be allowed to use the bucket
#   --namespace=default    the Kubernetes namespace
#   --spot                 on spot machines, which are taken away when others want them
#   --grace=120            seconds that the run has to save when its pod is told to end
#   --max_restarts=20      how often the run is started again after it was stopped with a checkpoint, killed or preempted
#   --dry_run              print what would be run, and run nothing
#
# It returns once the JobSet is made. To stop the run with a checkpoint and for good: kubectl delete jobset NAME.
set -euo pipefail
source "$(dirname "$0")/common.sh"
flags=([name]="" [image]="" [topology]="" [chips_per_host]=4 [claim]="" [bucket]="" [service_account]=default
  [namespace]=default [spot]=false [grace]=120 [max_restarts]=20 [dry_run]=false)
parse_flags "$@"
required name image topology service_account namespace
whole chips_per_host grace max_restarts
# The names of pods, which have at most 63 letters, add some to it.
[[ ${flags[name]} =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
  fail "--name=${flags[name]}: at most 40 lower-case letters, digits and hyphens, a letter first"
[ "${flags[chips_per_host]}" -gt 0 ] || fail "--chips_per_host=0: give at least one"
case ${flags[topology]} in
  v5e:*) accelerator=tpu-v5-lite-podslice axes=2 ;;
  v5p:*) accelerator=tpu-v5p-slice axes=3 ;;
  v6e:*) accelerator=tpu-v6e-slice axes=2 ;;
  *) fail "--topology=${flags[topology]}: give v5e:, v5p: or v6e: and the chips, as v5e:4x4" ;;
esac
shape=${flags[topology]#*:}
[[ $shape =~ ^[1-9][0-9]{0,2}(x[1-9][0-9]{0,2}){$((axes - 1))}$ ]] ||
  fail "--topology=${flags[topology]}: ${flags[topology]%%:*} has $axes numbers, as $([ $axes = 2 ] && echo 4x4 || echo 2x2x4)"
chips=$((${shape//x/*}))
per_host=$((chips < flags[chips_per_host] ? chips : flags[chips_per_host]))
((chips % per_host == 0)) || fail "--topology=${flags[topology]} has $chips chips: no whole number of hosts with $per_host"
case ${flags[claim]:+claim},${flags[bucket]:+bucket} in
  claim, | ,bucket) ;;
  *) fail "give either --claim=... or --bucket=...: the run directory is at /runs, which all pods must see" ;;
esac

for word in "${flags[@]}" "${arguments[@]}"; do
  [[ ! $word =~ [[:cntrl:]] ]] || fail "no line breaks or other control characters go into a manifest: $(quote "$word")"
done

# Words as JSON strings, which YAML reads too.
json() {
  local word line=""
  for word; do
    word=${word//\\/\\\\} word=${word//\"/\\\"}
    line+=", \"$word\""
  done
  printf '%s' "${line:2}"
}

# Kubernetes puts variables into $(NAME) unless the $ is doubled.
escaped=()
for word in "${arguments[@]}"; do escaped+=("${word//\$/\$\$}"); done

annotations="{}" tolerations="[]"
selector="cloud.google.com/gke-tpu-accelerator: $accelerator, cloud.google.com/gke-tpu-topology: $(json "$shape")"
if [ "${flags[bucket]}" ]; then
  annotations='{gke-gcsfuse/volumes: "true"}'
  volume="csi: {driver: gcsfuse.csi.storage.gke.io, volumeAttributes: {bucketName: $(json "${flags[bucket]}")}}"
else
  volume="persistentVolumeClaim: {claimName: $(json "${flags[claim]}")}"
fi
if "${flags[spot]}"; then
  selector+=', cloud.google.com/gke-spot: "true"'
  tolerations='[{key: cloud.google.com/gke-spot, operator: Equal, value: "true", effect: NoSchedule}]'
fi
declare -A words=([NAME]=$(json "${flags[name]}") [NAMESPACE]=$(json "${flags[namespace]}") [HOSTS]=$((chips / per_host))
  [MAX_RESTARTS]=${flags[max_restarts]} [GRACE]=${flags[grace]} [SERVICE_ACCOUNT]=$(json "${flags[service_account]}")
  [CHIPS]=$per_host [IMAGE]=$(json "${flags[image]}") [ANNOTATIONS]=$annotations [NODE_SELECTOR]="{$selector}"
  [TOLERATIONS]=$tolerations [VOLUME]=$volume [ARGUMENTS]="[$(json "${escaped[@]}")]")
# Piece by piece: what is filled in is not looked at again.
rest=$(tail -n +2 "$root/launch/gke/jobset.yaml")
manifest=""
while [[ $rest =~ ^([^@]*)@([A-Z_]+)@(.*)$ ]]; do
  manifest+=${BASH_REMATCH[1]}${words[${BASH_REMATCH[2]}]}
  rest=${BASH_REMATCH[3]}
done
manifest+=$rest

# `create` refuses a name that is taken: a run that is going on is not changed under way.
create=(kubectl create --filename=-)
if "${flags[dry_run]}"; then
  here_document "$manifest" "${create[@]}"
  exit 0
fi
"${create[@]}" <<<"$manifest"
say "logs of the first host: $(quote kubectl logs --follow "--namespace=${flags[namespace]}" --container=tracelift \
  "--selector=jobset.sigs.k8s.io/jobset-name=${flags[name]},batch.kubernetes.io/job-completion-index=0")"
