#!/bin/sh
# The steps that builder stages share: docker/steps.sh tools | venv | more | wheel.
set -eu
pip="/opt/gllm/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check"

case $1 in
tools)
    # A Python of Debian's or Ubuntu's own lacks venv and headers; that of the python images has both.
    packages=g++
    command -v python3 > /dev/null || packages="$packages python3"
    python3 -c 'import ensurepip' 2> /dev/null || packages="$packages python3-venv"
    python3 -c 'import os, sysconfig; assert os.path.exists(sysconfig.get_path("include") + "/Python.h")' 2> /dev/null ||
        packages="$packages python3-dev"
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages > /dev/null
    rm -rf /var/lib/apt/lists/*
    ;;
venv)
    # venv IMAGE [EXTRA...]: /opt/gllm with all that is installed there, but for gLLM itself.
    shift
    python3 -m venv /opt/gllm
    python3 docker/requirements.py "$@" > /tmp/requirements.txt
    # torch first and by itself, so that its version is the one that was asked for.
    [ "$1" = operator ] || $pip ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$TORCH"
    $pip -r /tmp/requirements.txt
    # Headers and test suites that nothing here reads. (CUDA's headers stay: FlashInfer compiles with them.)
    find /opt/gllm -type d \( -path '*/torch/include' -o -path '*/torch/test' -o -path '*/numpy/*/tests' \
        -o -path '*/sympy/*/tests' -o -path '*/networkx/*/tests' \) -prune -exec rm -rf {} +
    ;;
more)
    # more EXTRA: what is in that extra of pyproject.toml besides.
    python3 docker/requirements.py extra "$2" > /tmp/requirements.txt
    $pip -r /tmp/requirements.txt
    ;;
wheel)
    # With kernels, or not at all: without them an image would quietly be slow.
    python3 -m venv /tmp/build
    /tmp/build/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check 'setuptools>=77'
    /tmp/build/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --disable-pip-version-check -w /wheels .
    /tmp/build/bin/python -m zipfile -l /wheels/gllm-*.whl | grep -q '_native.*\.so'
    ;;
esac
