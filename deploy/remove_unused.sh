#!/bin/sh
# Remove what a processor never runs from an environment: OpenVINO's plugins for GPUs and NPUs, 60 MB.
#
#   sh remove_unused.sh /opt/regraft
set -eu
find "$1" -path '*/openvino/libs/*' \
  \( -name '*_gpu_plugin*' -o -name '*_npu_*' -o -name cache.json \) -type f -delete
