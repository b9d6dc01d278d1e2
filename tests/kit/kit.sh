#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kit.sh BUILD: what a vendor does, with the installed package alone. Installs the build into a
# stage, hides source and build behind an empty folder (a mount namespace of its own), puts the
# stage where the prefix is, and then: ferry plugin new, meson with pkg-config, the suite, for
# both kinds, and a plugin built with nothing but cc and pkg-config. PACKAGE.deb in place of BUILD
# takes what dpkg-deb unpacks.
set -euo pipefail

inside() { # STAGE PREFIX HIDDEN...
    local stage=$1 prefix=$2 dir pc
    shift 2
    mkdir -p "$prefix"
    if [ "$prefix" = /usr ]; then # the package's files among the system's
        mount -t overlay overlay -o "lowerdir=$stage/usr:/usr" /usr
    else
        mount --bind "$stage$prefix" "$prefix"
    fi
    for dir; do mount -t tmpfs tmpfs "$dir"; done
    pc=$(dirname "$(find "$stage$prefix" -name ferry.pc)")
    export PATH=$prefix/bin:/usr/bin:/bin PKG_CONFIG_PATH=$prefix${pc#"$stage$prefix"}
    unset FERRY_PLUGIN_PATH LD_LIBRARY_PATH CFLAGS LDFLAGS
    cd "$(mktemp -d)"
    ferry --version
    man -l "$prefix"/share/man/man1/ferry.1* >/dev/null 2>&1 || test -e "$prefix/share/man/man1/ferry.1" \
        -o -e "$prefix/share/man/man1/ferry.1.gz"
    test -s "$prefix/share/doc/ferry/plugin-guide.md" -o -s "$prefix/share/doc/ferry/plugin-guide.md.gz"
    for kind in transport metadata; do
        echo "== ferry plugin new $kind acme"
        ferry plugin new $kind acme $kind
        if grep -rniq sample $kind; then echo "the template's name is left"; exit 1; fi
        (cd $kind && meson setup build --prefix "$PWD/out" -Dwerror=true && meson test -C build conformance)
        (cd $kind && FERRY_PLUGIN_PATH=$PWD/build ferry plugins | grep -w acme)
    done
    echo '== with cc and pkg-config alone, JUnit, and a point that fails'
    # shellcheck disable=SC2046
    cc -shared -fPIC -fvisibility=hidden -o ferry_transport_acme.so transport/*.c $(pkg-config --cflags ferry) -pthread
    ferry conformance ./ferry_transport_acme.so depth=16 --only 0,1,killed --junit out.xml
    grep -q 'tests="3" failures="0"' out.xml
    sed 's/e->done += len;/e->done += 0;/' transport/queue.c >broken.c # never ends
    cp transport/acme.h . # shellcheck disable=SC2046
    cc -shared -fPIC -o broken.so broken.c transport/{peer,plugin,server,tp}.c $(pkg-config --cflags ferry) -pthread
    rc=0
    ferry conformance ./broken.so --only 1 --wait 500 >broken.txt || rc=$?
    cat broken.txt
    [ $rc = 1 ] && grep -q 'FAIL.*plugin-guide.md#transport-1-bytes' broken.txt
    test "$(pkg-config --variable=plugindir ferry)" = "$(dirname "$(find "$prefix"/lib* -name ferry_transport_tcp.so -print -quit)")"
    echo green
}

if [ "$1" = inside ]; then
    shift
    inside "$@"
    exit
fi
source=$(dirname "$(dirname "$(dirname "$(readlink -f "$0")")")")
for tool in meson pkg-config unshare; do
    command -v $tool >/dev/null || { echo "no $tool on this machine"; exit 77; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$0" "$work/kit.sh"
mkdir "$work/stage"
case $1 in
*.deb)
    dpkg-deb -x "$1" "$work/stage"
    prefix=/usr hidden=("$source")
    ;;
*)
    build=$(readlink -f "$1")
    prefix=$(meson introspect "$build" --buildoptions |
        python3 -c 'import json, sys; print(*[o["value"] for o in json.load(sys.stdin) if o["name"] == "prefix"])')
    DESTDIR=$work/stage meson install -C "$build" --no-rebuild --quiet
    hidden=("$source")
    case $build in "$source"/*) ;; *) hidden+=("$build") ;; esac
    ;;
esac
map=()
[ "$(id -u)" = 0 ] || map=(-r)
if ! unshare "${map[@]}" -m true 2>/dev/null; then
    echo "no mount namespaces here"
    exit 77
fi
cd /
TMPDIR=$work unshare "${map[@]}" -m "$work/kit.sh" inside "$work/stage" "$prefix" "${hidden[@]}"
