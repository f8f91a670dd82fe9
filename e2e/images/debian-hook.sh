#!/bin/bash
# Run by mmdebstrap at the end of the images' installation, as debian-hook.sh ROOT WORK: writes WORK/debian.tar with the
# base, then installs redis and puts its programs with the libraries they need into WORK/redis.
set -euo pipefail
root=$1 work=$2

chroot "$root" useradd --uid 1000 --user-group --create-home --shell /bin/bash app
status=0
tar -C "$root" --sort=name --mtime=@1704067200 --numeric-owner --one-file-system \
    --xattrs '--xattrs-include=security.capability' \
    '--exclude=./dev/*' '--exclude=./proc/*' '--exclude=./sys/*' '--exclude=./tmp/*' '--exclude=./run/*' \
    '--exclude=./var/cache/*' '--exclude=./var/lib/apt/*' '--exclude=./var/log/*' '--exclude=./etc/resolv.conf' \
    '--exclude=./usr/share/locale/*' '--exclude=./usr/share/doc/*' '--exclude=./usr/share/zoneinfo/*' \
    '--exclude=./usr/share/i18n/*' '--exclude=./usr/lib/x86_64-linux-gnu/gconv/*' \
    '--exclude=./etc/apt/apt.conf.d/99mmdebstrap' '--exclude=./etc/dpkg/dpkg.cfg.d/99mmdebstrap' \
    -cf "$work/debian.tar" . || status=$?
# tar's status 1 says that a file changed meanwhile: the mount points proc, sys and dev do.
((status <= 1))

printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install redis-server redis-tools
programs=(/usr/bin/redis-server /usr/bin/redis-cli)
chroot "$root" ldd "${programs[@]}" | grep -o '/[^ ]*' | sed 's/:$//' | LC_ALL=C sort -u |
    while read -r library; do
        # The image has no links from /lib to /usr/lib, so each file keeps the name that the loader looks for.
        install -D -m 755 "$root$library" "$work/redis$library"
    done
install -D -m 755 -t "$work/redis/usr/bin" "${programs[@]/#/$root}"
install -d "$work/redis/var/lib/redis" "$work/redis/etc"
