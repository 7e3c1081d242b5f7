#!/usr/bin/env bash
# Makes .venv with the exact versions of requirements.lock. Needs Python 3.11+ and a network.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "error: wingspan needs Python 3.11 or later; set PYTHON to one" >&2
  exit 2
}
started=$SECONDS
"$python" -m venv .venv || {
  echo "error: python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2
  exit 2
}
pip=".venv/bin/python -m pip --disable-pip-version-check --quiet"

# The default wheel of torch on Linux carries several GB of CUDA. Without an NVIDIA GPU, and unless pip is
# configured with an index or wheels of your own, take the CPU wheel from PyTorch's index.
torch=$(grep -E '^torch==' requirements.lock)
if ! command -v nvidia-smi >/dev/null && [ -z "$(.venv/bin/python -m pip config list 2>/dev/null | grep -E 'index|find-links')" ]; then
  $pip install "$torch" --index-url https://download.pytorch.org/whl/cpu || true
fi
$pip install "$torch"
$pip install --no-deps -r requirements.lock
$pip install --no-deps --no-build-isolation -e .
echo "set up .venv in $((SECONDS - started)) s"
