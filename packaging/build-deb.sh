#!/bin/sh
# Builds dist/wizflowd.deb for Debian 12: a venv for its Python with everything in it.
# usage: [DEB_REVISION=1] build-deb.sh
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
python=/usr/bin/python3.11
[ -x $python ] || { echo "error: cannot build the package: it is made for Debian 12, whose $python is missing" >&2; exit 1; }
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$source/pyproject.toml")-${DEB_REVISION:-1}
architecture=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

PYTHON=$python "$source/packaging/install.sh" "$work/tree"
mkdir "$work/tree/DEBIAN"
cp "$source"/packaging/debian/conffiles "$work/tree/DEBIAN"
for script in postinst prerm postrm; do
  install -m 755 "$source/packaging/debian/$script" "$work/tree/DEBIAN/$script"
done
sed -e "s/@VERSION@/$version/; s/@ARCHITECTURE@/$architecture/" \
  -e "s/@SIZE@/$(du -sk --exclude=DEBIAN "$work/tree" | cut -f1)/" \
  "$source/packaging/debian/control" >"$work/tree/DEBIAN/control"
(cd "$work/tree" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | xargs -0 md5sum) >"$work/md5sums"
mv "$work/md5sums" "$work/tree/DEBIAN/md5sums"

mkdir -p "$source/dist"
built=$source/dist/.wizflowd.deb.$$
trap 'rm -rf "$work" "$built"' EXIT
dpkg-deb --root-owner-group -Zxz -z1 --build "$work/tree" "$built" >/dev/null
mv "$built" "$source/dist/wizflowd.deb" # whole or not at all
