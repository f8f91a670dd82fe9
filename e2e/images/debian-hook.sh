#!/bin/bash
# Run by mmdebstrap at the end of the images' installation, as debian-hook.sh ROOT WORK: writes WORK/debian.tar with the
# base, then installs redis and writes WORK/redis.tar with the files that this added or changed.
set -euo pipefail
root=$1 work=$2
tar_options=(--numeric-owner --one-file-system --xattrs '--xattrs-include=security.capability' '--exclude=./dev/*'
    '--exclude=./proc/*' '--exclude=./sys/*' '--exclude=./tmp/*' '--exclude=./run/*' '--exclude=./var/cache/apt/*'
    '--exclude=./var/lib/apt/lists/*' '--exclude=./var/log/*' --exclude=./etc/resolv.conf '--exclude=./var/cache/debconf/*'
    '--exclude=./usr/share/locale/*' '--exclude=./usr/share/doc/*' --exclude=./etc/apt/apt.conf.d/99mmdebstrap
    --exclude=./etc/dpkg/dpkg.cfg.d/99mmdebstrap)

# tar's status 1 says that a file changed meanwhile: the mount points proc, sys and dev do.
archive() {
    local status=0
    tar -C "$root" "${tar_options[@]}" --mtime=@1704067200 "$@" || status=$?
    ((status <= 1))
}

list() {
    (cd "$root" && find . -xdev ! -type d -printf '%p\t%T@\t%s\t%m\t%U:%G\t%l\n') | LC_ALL=C sort
}

chroot "$root" useradd --uid 1000 --user-group --create-home --shell /bin/bash app
archive --sort=name -cf "$work/debian.tar" .
list >"$work/before"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install redis-server redis-tools
rm -f "$root/usr/sbin/policy-rc.d"
list >"$work/after"
{
    LC_ALL=C comm -13 "$work/before" "$work/after" | cut -f1
    echo ./var/lib/redis
} >"$work/added"
archive --no-recursion -cf "$work/redis.tar" -T "$work/added"
