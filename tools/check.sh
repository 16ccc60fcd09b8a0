#!/usr/bin/env bash
# The gate: formatting, lint, types and the quick tests. Under two minutes on two cores; prints "check: all green" and
# exits with 0, or stops at the first failure with its exit code.
#
#   tools/check.sh              everything
#   tools/check.sh --no-tests   without the tests, for when they have just run
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

run_tests=true
case "${1:-}" in
    "") ;;
    --no-tests) run_tests=false ;;
    *)
        echo "check: unknown argument $1; usage: tools/check.sh [--no-tests]" >&2
        exit 2
        ;;
esac

# `python -m` takes the tools from the interpreter in use, not from wherever PATH happens to point.
python -m ruff format --check .
python -m ruff check .
python -m mypy
if "$run_tests"; then
    python -m pytest -m "not slow and not full"
fi
echo "check: all green"
