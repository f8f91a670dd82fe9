# Small inits: exit statuses, forwarded signals, orphans, supervised services.
exec 2>&1
for init in 'tini -s -g --' dumb-init; do
    echo "== $init"
    $init sh -c 'exit 7'
    echo "-> $?"
    $init sh -c 'trap "echo term; exit 5" TERM; touch /tmp/trapped; sleep 60 & wait' &
    process=$!
    until [[ -e /tmp/trapped ]]; do sleep 0.2; done
    rm /tmp/trapped
    kill -TERM "$process"
    wait "$process"
    echo "-> $?"
    $init sh -c '(sh -c "sleep 1; exit 3" &); sleep 3; ps -eo stat | grep -c Z'
done
echo '== runit'
mkdir -p /runit/service
printf '#!/bin/sh\necho started >>/runit/log\nexec sleep 1000\n' >/runit/service/run
chmod +x /runit/service/run
runsvdir /runit &
process=$!
until [[ -s /runit/log ]]; do sleep 0.5; done
sv status /runit/service | sed 's/[0-9][0-9]*/N/g'
# What it says of a restart goes by when it looks.
sv -w 60 restart /runit/service >/dev/null
echo "-> $?"
until [[ $(wc -l </runit/log) == 2 ]]; do sleep 0.5; done
sv -w 60 stop /runit/service | sed 's/[0-9][0-9]*/N/g'
kill -HUP "$process"
wait "$process"
echo "-> $?"
echo '== s6'
mkdir -p /s6/service
printf '#!/bin/sh\necho started >>/s6/log\nexec sleep 1000\n' >/s6/service/run
chmod +x /s6/service/run
s6-svscan /s6 &
process=$!
until [[ -s /s6/log ]]; do sleep 0.5; done
s6-svstat /s6/service | sed 's/[0-9][0-9]*/N/g'
s6-svc -wr -T 60000 -r /s6/service
echo "-> $?"
until [[ $(wc -l </s6/log) == 2 ]]; do sleep 0.5; done
s6-svscanctl -t /s6
wait "$process"
echo "-> $?"
echo end
