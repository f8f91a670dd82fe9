#!/bin/bash
# Run by mmdebstrap at the end of the installation, as image-hook.sh ROOT WORK: makes the folder of packages that a container
# installs from (/srv/packages) and writes WORK/workloads.tar with WORK/extra and what WORK/Main.java is compiled to.
set -euo pipefail
root=$1 work=$2

chroot "$root" useradd --uid 1000 --user-group --create-home --shell /bin/bash app
mkdir -p "$root/srv/packages"
chroot "$root" apt-get -q -y --no-install-recommends --download-only -o Dir::Cache::archives=/srv/packages \
    install gcc libc6-dev make iputils-ping
rm -rf "$root"/srv/packages/{partial,lock}
# shellcheck disable=SC2016 # for the shell inside
chroot "$root" bash -c '
    cd /srv/packages
    for file in *.deb; do
        dpkg-deb -f "$file" Package Version Architecture Maintainer Installed-Size Pre-Depends Depends Conflicts Breaks Replaces \
            Provides Section Priority Multi-Arch Essential
        printf "Filename: ./%s\nSize: %s\nSHA256: %s\nDescription: none\n\n" \
            "$file" "$(stat -c %s "$file")" "$(sha256sum "$file" | cut -d" " -f1)"
    done >Packages'
status=0
tar -C "$root" --sort=name --mtime=@1704067200 --numeric-owner --one-file-system \
    --xattrs '--xattrs-include=security.capability' \
    '--exclude=./dev/*' '--exclude=./proc/*' '--exclude=./sys/*' '--exclude=./tmp/*' '--exclude=./run/*' \
    '--exclude=./var/cache/*' '--exclude=./var/lib/apt/lists/*' '--exclude=./var/log/*' '--exclude=./etc/resolv.conf' \
    '--exclude=./usr/share/locale/*' '--exclude=./usr/share/doc/*' '--exclude=./usr/share/i18n/*' \
    '--exclude=./etc/apt/apt.conf.d/99mmdebstrap' '--exclude=./etc/dpkg/dpkg.cfg.d/99mmdebstrap' \
    -cf "$work/workloads.tar" . || status=$?
# tar's status 1 says that a file changed meanwhile: the mount points proc, sys and dev do.
((status <= 1))

# The compiler is in no image.
DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get -q -y --no-install-recommends install default-jdk-headless
cp "$work/Main.java" "$root/tmp/"
chroot "$root" javac -d /tmp/classes /tmp/Main.java
install -d "$work/extra/usr/local/share/java"
cp "$root"/tmp/classes/*.class "$work/extra/usr/local/share/java/"
tar -C "$work/extra" --sort=name --mtime=@1704067200 --owner=0 --group=0 --numeric-owner -rf "$work/workloads.tar" .
