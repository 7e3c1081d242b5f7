#!/usr/bin/env bash
# The peers that benchmarks measure side by side, each in an environment of its own under benchmarks/.venvs.
set -euo pipefail
cd "$(dirname "$0")/.."

# peer NAME REQUIREMENT...
peer() {
    local folder="benchmarks/.venvs/$1"
    shift
    if [ ! -f "$folder/.installed" ] || [ "$(cat "$folder/.installed")" != "$*" ]; then
        python3 -m venv --clear "$folder"
        "$folder/bin/pip" install --quiet "$@"
        echo "$*" >"$folder/.installed"
    fi
}

peer datatrove "datatrove==0.10.1" orjson nltk spacy "tokenizers>=0.20" "xxhash<4" ftfy regex
peer lm-eval "lm-eval[hf]==0.4.13" "torch==2.13.0" "transformers==5.24.0"
peer trl "trl==1.16.0" "torch==2.13.0" "transformers==5.24.0"
peer litgpt "litgpt==0.5.13" "torch==2.13.0"
