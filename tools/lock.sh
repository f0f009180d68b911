#!/bin/sh
# Writes requirements/*.lock: serve ⊂ pack ⊂ dev, each pinned by version and hash; and the two that `onward cloud` takes
# from: for images all that a server may need, for Ray's nodes Ray besides, which asks for extras of what a server has.
set -e
[ -x var/lock-venv/bin/pip-compile ] || { python3 -m venv var/lock-venv && var/lock-venv/bin/pip install -q pip-tools; }
annotate=--no-annotate
compile() {
    out=$1; shift
    var/lock-venv/bin/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe $annotate --no-header \
        --no-emit-index-url --no-emit-find-links --no-emit-options --output-file "requirements/$out.lock" "$@" pyproject.toml
}
compile serve
compile pack --extra pack --extra decide --extra batch --extra llm --extra speech --extra phonemes --constraint requirements/serve.lock
compile dev --extra pack --extra decide --extra batch --extra ray --extra llm --extra speech --extra phonemes --extra postgres --extra sources --extra dev --constraint requirements/pack.lock
annotate=--annotate  # by which `onward cloud` takes out what one image needs
compile ../src/onward/runners/cloud/images --extra decide --extra postgres --extra llm --extra speech --extra phonemes --constraint requirements/dev.lock
compile ../src/onward/runners/cloud/nodes --extra decide --extra postgres --extra batch --extra ray --extra llm --extra speech --extra phonemes --constraint requirements/dev.lock
