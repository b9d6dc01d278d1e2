#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check_symbols.sh LIST LIBRARY: the library exports what the list names, no more and no less.
set -eu
sort -u "$1" | sed '/^#/d' >"${TMPDIR:-/tmp}/ferry-symbols.$$"
trap 'rm -f "${TMPDIR:-/tmp}/ferry-symbols.$$"' EXIT
found=$(nm -D --defined-only "$2" | awk '{ print $3 }' | sort -u)
[ -n "$found" ] || { echo "$2: exports nothing"; exit 1; }
echo "$found" | diff -u --label "$1" "${TMPDIR:-/tmp}/ferry-symbols.$$" --label "$2" - && echo "$(echo "$found" | wc -l) symbols"
