# apt-get installs a compiler and ping from a folder; make builds a program of thirty files.
exec 2>&1
rm -f /etc/apt/sources.list.d/*
echo 'deb [trusted=yes] file:/srv/packages ./' >/etc/apt/sources.list
apt-get -q -o Acquire::Languages=none update | tail -n 1
DEBIAN_FRONTEND=noninteractive apt-get -y -q --no-install-recommends install gcc libc6-dev make iputils-ping >/tmp/apt.log 2>&1
echo "install: $?"
grep -iE '^(W|E):|warn|fail|error' /tmp/apt.log
dpkg --audit
dpkg-query -W gcc make iputils-ping
dpkg --verify gcc libc6-dev make iputils-ping
ping -c 1 -W 5 127.0.0.1 | grep -o '[0-9]* received'
setcap cap_net_raw+ep /usr/bin/ping
setpriv --reuid 1000 --regid 1000 --clear-groups ping -c 1 -W 5 127.0.0.1 | grep -o '[0-9]* received'
dpkg --verify iputils-ping

mkdir -p /src
cd /src || exit
for n in $(seq 30); do
    printf '#include <stdio.h>\n#include <stdlib.h>\nint f%d(int x) { char b[64]; snprintf(b, sizeof b, "%%d", x + %d); return atoi(b); }\n' "$n" "$n" >"f$n.c"
done
{
    echo '#include <stdio.h>'
    for n in $(seq 30); do echo "int f$n(int);"; done
    echo 'int main(void) { int s = 0;'
    for n in $(seq 30); do echo "s += f$n(s);"; done
    echo 'printf("sum %d\n", s); return 0; }'
} >main.c
printf 'prog: $(patsubst %%.c,%%.o,$(wildcard *.c))\n\tgcc -o $@ $^\n%%.o: %%.c\n\tgcc -O1 -c -o $@ $<\n' >Makefile
make -j2 >/tmp/make.log || tail /tmp/make.log
./prog
make
sleep 1
touch f3.c
make
find . -type f | wc -l
apt-get -y -q purge make >/dev/null
dpkg-query -W -f '${Status}\n' make
echo end
