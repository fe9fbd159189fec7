#!/usr/bin/env bash
# Their builds need not fit PyTorch's build for CPUs, and transformers imports them where they are there.
set -euo pipefail
python -m pip uninstall --yes torchvision torchaudio torchcodec
