#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# deb.sh BUILD DIST: a Debian package of what `meson install` gives, with the dependencies that
# dpkg-shlibdeps finds. BUILD is configured with --prefix=/usr and built. One package: library,
# command, plugins, and the kit for who writes plugins.
set -euo pipefail
build=$(readlink -f "$1") dist=$(readlink -f "$2") source=$(dirname "$(dirname "$(readlink -f "$0")")")
version=$(meson introspect "$build" --projectinfo | python3 -c 'import json, sys; print(json.load(sys.stdin)["version"])')
arch=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/debian/ferry
mkdir -p "$root"
DESTDIR=$root meson install -C "$build" --no-rebuild --quiet

maintainer=$(git -C "$source" log -1 --format='%an <%ae>' 2>/dev/null) || maintainer='Ferry developers <ferry@localhost>'
find "$root" -type f \( -name '*.so*' -o -path '*/bin/*' -o -path '*/libexec/*' \) -exec strip --strip-unneeded {} +
find "$root/usr/lib" -name '*.so*' -type f -exec chmod 644 {} +
gzip -9n "$root"/usr/share/man/man*/*.[0-9]
doc=$root/usr/share/doc/ferry
mkdir -p "$doc"
gzip -9nc "$source/CHANGELOG.md" >"$doc/changelog.gz"
date=$(git -C "$source" log -1 --format=%cD 2>/dev/null || date -R)
printf 'ferry (%s-1) unstable; urgency=medium\n\n  * Built from the source tree by ./dev deb.\n\n -- %s  %s\n' \
    "$version" "$maintainer" "$date" | gzip -9nc >"$doc/changelog.Debian.gz"
cat >"$doc/copyright" <<'END'
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: ferry

Files: *
Copyright: 2026 the developers of Ferry
License: Apache-2.0
 Licensed under the Apache License, Version 2.0; you may not use these files
 except in compliance with it. Copyright notices stand in the files.
 .
 On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.
END

cd "$work"
cat >debian/control <<'END'
Source: ferry
Maintainer: Ferry developers <ferry@localhost>

Package: ferry
Architecture: any
END
lib=$(dirname "$(find "$root" -name 'libferry.so.*' -print -quit)")
mapfile -t files < <(find "$root" -type f -exec sh -c 'head -c 4 "$1" | grep -q ELF' _ {} \; -print)
depends=$(dpkg-shlibdeps -O --ignore-missing-info -l"$lib" "${files[@]}" 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
soname=$(readlink "$lib/libferry.so")
mkdir -p "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<END
Package: ferry
Version: $version-1
Architecture: $arch
Maintainer: $maintainer
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: $depends
Suggests: gcc, meson, pkg-config, libibverbs1
Section: net
Priority: optional
Description: KV cache transfer between machines
 The library libferry, the command ferry, transport and metadata plugins, and
 what it takes to write plugins: headers, templates, the conformance suite and
 the guide.
END
printf 'libferry %s ferry (>= %s)\n' "${soname##*.so.}" "$version" >"$root/DEBIAN/shlibs"
printf 'activate-noawait ldconfig\n' >"$root/DEBIAN/triggers"
(cd "$root" && find usr -type f -exec md5sum {} + | sort -k2 >DEBIAN/md5sums)
mkdir -p "$dist"
dpkg-deb --root-owner-group --build "$root" "$dist/ferry_$version-1_$arch.deb"
