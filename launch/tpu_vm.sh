#!/usr/bin/env bash
# A training on a Cloud TPU: makes the machines, installs, trains on all hosts, fetches, deletes.
#
#   export TPU=my-tpu ZONE=us-central2-b TYPE=v4-32 SHARE=10.0.0.2:/share RUN=resnet20
#   launch/tpu_vm.sh create
#   launch/tpu_vm.sh install
#   launch/tpu_vm.sh data cifar10
#   launch/tpu_vm.sh run --config=experiments/cifar10/resnet20.py
#   launch/tpu_vm.sh fetch runs
#   launch/tpu_vm.sh delete
#
# The hosts share no disk, so SHARE, an NFS export such as that of a Filestore instance, is mounted on
# each of them at ~/shared; it holds data, the run named RUN and compiled programs. `data` is given a
# data set, and prepares it there. What is installed is what is committed. After a preemption delete,
# create, install and run again: the training goes on from its last checkpoint.
set -euo pipefail

usage() {
  echo "usage: $0 create | install | data NAME | run FLAGS | fetch FOLDER | delete" >&2
  exit 2
}

[ $# -gt 0 ] || usage
: "${TPU:?give a name for the TPU}" "${ZONE:?give its zone}"
VERSION=${VERSION:-tpu-ubuntu2204-base}
RUN=${RUN:-run}

tpu() { gcloud compute tpus tpu-vm "$@" --zone="$ZONE"; }
everywhere() { tpu ssh "$TPU" --worker=all --command="$1"; }
# The image's own Python is older than cnn_lab's oldest.
python=3.12
variables="CNN_LAB_DATA_DIR=\$HOME/shared/data JAX_COMPILATION_CACHE_DIR=\$HOME/shared/xla"

case "${1:-}" in
  create)
    : "${TYPE:?give its type, such as v4-32}"
    tpu create "$TPU" --accelerator-type="$TYPE" --version="$VERSION" ${SPOT:+--spot}
    ;;
  install)
    : "${SHARE:?give an NFS export, such as 10.0.0.2:/share}"
    archive=$(mktemp --suffix=.tar.gz)
    trap 'rm -f "$archive"' EXIT
    git archive --format=tar.gz --output="$archive" HEAD
    tpu scp "$archive" "$TPU":cnn_lab.tar.gz --worker=all
    everywhere "set -e
      sudo apt-get update --quiet && sudo apt-get install --quiet --yes nfs-common python3-venv
      mkdir -p cnn_lab shared && tar xzf cnn_lab.tar.gz -C cnn_lab
      python3 -m venv tools && tools/bin/pip install --quiet uv
      tools/bin/uv venv --quiet --seed --python $python venv
      venv/bin/pip install --quiet -c cnn_lab/constraints.txt './cnn_lab[tpu]'
      mountpoint -q shared || sudo mount -t nfs $SHARE shared"
    ;;
  data)
    tpu ssh "$TPU" --worker=0 \
      --command="$variables venv/bin/cnn-lab data prepare $(printf %q "${2:?give a data set}")"
    ;;
  run)
    arguments=$(printf ' %q' "${@:2}")
    everywhere "cd cnn_lab && $variables ../venv/bin/cnn-lab train \
      --cluster --workdir=\$HOME/shared/$RUN$arguments"
    ;;
  fetch)
    mkdir -p "${2:?give a folder for the run}"
    tpu scp --recurse "$TPU":shared/"$RUN" "$2" --worker=0
    ;;
  delete)
    tpu delete "$TPU" --quiet
    ;;
  *) usage ;;
esac
