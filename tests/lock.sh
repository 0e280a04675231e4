#!/bin/sh
# Writes constraints.txt: the newest versions that fit pyproject.toml, as installed into a fresh environment.
set -eu
here=$(dirname "$0")/..
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unset PIP_CONSTRAINT
"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet "$here[test,check]" hatchling editables
{
    echo "# The versions that are tested. Written by 'make lock'; pyproject.toml holds the floors."
    "$scratch/venv/bin/python" -m pip freeze --exclude portero
} >"$here/constraints.txt"
