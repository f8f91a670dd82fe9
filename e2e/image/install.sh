#!/bin/bash
# Run in a test host as `bash -s`: installs the build that lies in /repo/target/dist, and takes away what the one before it
# had and this one has not. Prints how many files changed.
set -euo pipefail
list=/var/lib/testhost/installed
mkdir -p "${list%/*}"
touch "$list"
# Each file is written beside its place and renamed, so running programs keep the file that they have.
changed=$(timeout 300 rsync -rlpt --delay-updates --omit-dir-times --chown=root:root --out-format=%n /repo/target/dist/ / |
    grep -vc '/$' || true)
(cd /repo/target/dist && find . ! -type d | LC_ALL=C sort) >"$list.new"
LC_ALL=C comm -23 "$list" "$list.new" | (cd / && xargs -rd '\n' rm -f)
mv "$list.new" "$list"
# Ten guests at once on one emulated CPU take longer to boot than any hardware gives reason to wait.
mkdir -p /etc/bulkhead
echo 'boot_timeout_s = 240' >/etc/bulkhead/bulkhead.toml
echo "$changed files changed"
