#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# abidiff.sh SOURCE SYMBOLS: what libabigail says of today's public types and functions beside those
# of ABI 1.0. Both headers are compiled into a library whose functions take each of them, so
# that build options and the library's inner types play no part. Members appended to structs that
# carry their size are allowed, all else is not; breaks on purpose show that it looks.
set -euo pipefail
source=$1 symbols=$2
for tool in abidiff gcc; do
    command -v $tool >/dev/null || { echo "no $tool on this machine (abigail-tools)"; exit 77; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

library() { # INCLUDE NAME
    {
        for header in ferry admin transport_plugin metadata_plugin memory_plugin; do
            [ ! -e "$1/ferry/$header.h" ] || echo "#include \"ferry/$header.h\""
        done
        grep '^ferry_' "$symbols" | while read -r name; do
            if grep -qrw "$name" "$work/old/ferry"; then echo "void takes_$name(__typeof__($name) *p) { (void)p; }"; fi
        done
        # Each struct and each function of a table by itself: below a struct that grew nothing is looked at.
        awk '/^struct ferry_[a-z_]+ \{/ { s = $2; print "void takes_struct_" s "(const struct " s " *p) { (void)p; }" }
            s && match($0, /^    [a-z].*\(\*[a-z_]+\)\(/) {
                m = $0; sub(/^[^(]*\(\*/, "", m); sub(/\).*/, "", m)
                print "void takes_member_" s "_" m "(__typeof__(((struct " s " *)0)->" m ") p) { (void)p; }"
            }
            /^\};/ { s = "" }' "$work"/old/ferry/*.h
    } >"$work/$2.c"
    gcc -std=gnu11 -g -shared -fPIC -I"$1" -o "$work/$2.so" "$work/$2.c"
}

# abidiff reports what was appended as well, which is allowed: its words for all else are looked for. (A
# suppression of "inserted at the end" would hide changes of old members too.)
compare() {
    local rc=0
    abidiff --leaf-changes-only "$work/old.so" "$work/$1.so" >"$work/$1.txt" 2>&1 || rc=$?
    [ $((rc & 1)) = 0 ] || { cat "$work/$1.txt"; echo "abidiff itself failed"; exit 1; }
    ! grep -E "offset changed|data member (deletion|change)|type of '|was removed|was added|[1-9][0-9]* (Removed|Changed)|return type changed|enumerator (deletion|change)|^'struct ferry_(xfer|comp|copy|kv|kvs|plugin_hdr|region) " \
        "$work/$1.txt"
}

cp -r "$source/tests/abi/include_1_0" "$work/old"
library "$work/old" old
library "$source/include" new
if ! compare new; then
    cat "$work/new.txt"
    echo "today's headers break ABI 1.0"
    exit 1
fi

broken() { # NAME FILE SED
    rm -rf "$work/broken"
    cp -r "$source/include" "$work/broken"
    sed -i "$3" "$work/broken/ferry/$2"
    if cmp -s "$work/broken/ferry/$2" "$source/include/ferry/$2"; then echo "$1: nothing was broken"; exit 1; fi
    library "$work/broken" "$1"
    if compare "$1" >"$work/said"; then echo "$1 was not seen"; exit 1; fi
    echo "seen: $1"
}
broken 'a-wider-member' transport_plugin.h 's/uint32_t max_list;/uint64_t max_list;/'
broken 'another-order' metadata_plugin.h '/ferry_status (\*del)/{h;d};/(\*unwatch)/G'
broken 'a-struct-without-size-grows' plugin.h 's|    uint32_t flags; /. FERRY_KV_TEXT|    uint64_t more;\n&|'
broken 'another-argument' ferry.h '0,/uint32_t timeout_ms/s//uint64_t timeout_ms/'
echo "compatible with ABI 1.0"
