#!/bin/sh
# Installs wizflowd for a whole host: the program with all it needs in a venv of its own under /opt, commands, units,
# users, folders, configuration. usage: [PYTHON=...] install.sh [DESTDIR]
# With DESTDIR it is staged there, for a package; without, the host's systemd is told, too. Existing configuration stays.
set -eu
dest=${1:-}
python=${PYTHON:-/usr/bin/python3}
app=/opt/wizflowd
source=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "error: cannot use $python: Python 3.11 or newer is needed; name one: make install PYTHON=python3.12" >&2; exit 1; }
"$python" -m venv "$work/tools" ||
  { echo "error: cannot make a venv with $python; install python3-venv" >&2; exit 1; }

# Built from a copy: setuptools keeps what was removed from the sources in ./build, and would install it.
mkdir "$work/source"
(cd "$source" && cp -R pyproject.toml README.md LICENSE wizflowd "$work/source")
"$python" -m venv --without-pip "$dest$app"
"$work/tools/bin/python" -m pip --python "$dest$app/bin/python" install -qq --no-compile --upgrade "$work/source[graph]"
"$dest$app/bin/python" -c 'import wizflowd.daemon' # what pyproject.toml forgets is missed here, not on the host
# What runs by path (wizflowd-spawner.service) does not name a version of Python.
ln -sfn "$(cd "$dest$app/lib" && echo python3*)" "$dest$app/lib/python"
find "$dest$app/bin" -type f ! -name wizflow ! -name wizflowd -delete
if [ -n "$dest" ]; then # where it is staged is not where it will be
  sed -i "s|$dest$app|$app|g" "$dest$app/bin/wizflow" "$dest$app/bin/wizflowd" "$dest$app/pyvenv.cfg"
fi
find "$dest$app" -name __pycache__ -type d -prune -exec rm -rf {} +
"$dest$app/bin/python" -m compileall -q -s "$dest" -p / --invalidation-mode unchecked-hash "$dest$app/lib" >/dev/null

put() { install -D -m "$1" "$2" "$dest$3"; }
mkdir -p "$dest/usr/bin"
ln -sfn "$app/bin/wizflow" "$dest/usr/bin/wizflow"
ln -sfn "$app/bin/wizflowd" "$dest/usr/bin/wizflowd"
for unit in "$source"/systemd/*.service "$source"/systemd/*.socket; do
  put 644 "$unit" "/lib/systemd/system/${unit##*/}"
done
put 644 "$source/systemd/sysusers.d/wizflowd.conf" /usr/lib/sysusers.d/wizflowd.conf
put 644 "$source/systemd/tmpfiles.d/wizflowd.conf" /usr/lib/tmpfiles.d/wizflowd.conf
put 644 "$source/config/wizflowd.yaml" /usr/share/doc/wizflowd/wizflowd.yaml
put 644 "$source/LICENSE" /usr/share/doc/wizflowd/copyright
[ -e "$dest/etc/wizflowd/wizflowd.yaml" ] || put 644 "$source/packaging/wizflowd.yaml" /etc/wizflowd/wizflowd.yaml
for page in "$source"/docs/man/*.[18]; do
  [ ! -e "$page" ] || put 644 "$page" "/usr/share/man/man${page##*.}/${page##*/}"
done
complete=/usr/share/bash-completion/completions
mkdir -p "$dest$complete"
"$dest$app/bin/python" -c 'import sys; from wizflowd.cli.main import main; sys.exit(main(["completion", "bash"]))' \
  >"$dest$complete/wizflow"

if [ -z "$dest" ] && [ -d /run/systemd/system ]; then
  systemd-sysusers wizflowd.conf
  systemd-tmpfiles --create wizflowd.conf
  systemctl daemon-reload
  echo 'installed; start it: systemctl enable --now wizflowd.service   (upgraded: systemctl restart wizflowd.service)'
fi
