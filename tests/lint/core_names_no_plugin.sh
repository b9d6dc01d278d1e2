#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# core_names_no_plugin.sh SOURCE_ROOT [PLUGIN.so...]: the core knows no plugin, and plugins know
# nothing of the core. Looks for names of transports, metadata stores and vendors in core/ and
# include/ferry/, comments included; core_names.allow beside this file says where one stands and
# why. Looks into plugins' sources for headers of the core, and into the plugins for symbols of
# libferry. Each finding is a line; the exit status is 1 if there is one.
set -euo pipefail
export LC_ALL=C
here=$(dirname "$(readlink -f "$0")")
root=$1
shift
plugins=()
for plugin; do plugins+=("$(readlink -e "$plugin")"); done # before we go elsewhere
cd "$root"
found=0

report() {
    printf '%s\n' "$*"
    found=1
}

names='tcp|rdma|shm|libfabric|ofi|efa|cuda|nvlink|etcd|redis|hiredis|curl|libcurl|microhttpd|ibverbs|verbs|infiniband|mlx[0-9_]*|roce|ucx|uring|io_uring|liburing|nvidia|rocm'
plain='loop|fault|memory|p2p|http|https' # English or Mooncake's words otherwise

# FILE<tab>pattern<tab>reason; each has to be of use.
declare -A used
allowed() { # FILE TEXT
    local file pattern reason
    while IFS=$'\t' read -r file pattern reason; do
        [ -n "$file" ] && [ "${file:0:1}" != '#' ] || continue
        [ -n "$reason" ] || report "core_names.allow: $file: no reason"
        if [ "$file" = "$1" ] && [[ $2 =~ $pattern ]]; then
            used["$file $pattern"]=1
            return 0
        fi
    done <"$here/core_names.allow"
    return 1
}

while IFS=: read -r file line text; do
    [ -n "$file" ] || continue
    allowed "$file" "$text" || report "$file:$line: the core names no plugin and no vendor: ${text## }"
done < <(grep -rnwiE "$names" core include/ferry --include='*.[ch]' || :
         grep -rnE "\"($plain)(://)?\"" core include/ferry --include='*.[ch]' || :)

while IFS=$'\t' read -r file pattern reason; do
    [ -n "$file" ] && [ "${file:0:1}" != '#' ] || continue
    [ -n "${used["$file $pattern"]:-}" ] || report "core_names.allow: of no use any more: $file: $pattern"
done <"$here/core_names.allow"

# Plugins: an include in quotes is of ferry/ or lies in the plugins' own folders.
while IFS=: read -r file line text; do
    [ -n "$file" ] || continue
    header=${text#*[\"<]}
    header=${header%[\">]*}
    case $header in
    ferry/ferry.h) report "$file:$line: ferry.h is for applications; plugins are given struct ferry_host" ;;
    ferry/*) continue ;;
    esac
    if [ -e "core/$header" ] && [ ! -e "$(dirname "$file")/$header" ]; then
        report "$file:$line: a header of the core: $header"
    fi
    case $header in
    *core/*) report "$file:$line: a header of the core: $header" ;;
    esac
done < <(grep -rnE '^[[:space:]]*#[[:space:]]*include' transports metadata_plugins memory_plugins --include='*.[ch]' 2>/dev/null || :)

for plugin in "${plugins[@]}"; do
    symbols=$(nm -D --undefined-only "$plugin" | awk '{ print $NF }' | grep -E '^(fy_|ferry_)' || :)
    for symbol in $symbols; do
        report "$(basename "$plugin"): links $symbol of libferry"
    done
    if readelf -d "$plugin" | grep -q 'NEEDED.*libferry'; then
        report "$(basename "$plugin"): is linked with libferry"
    fi
done

[ $found = 0 ] && echo "the core names no plugin; $# plugins use nothing of the core"
exit $found
