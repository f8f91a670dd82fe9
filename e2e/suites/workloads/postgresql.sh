# initdb, pgbench, the postmaster killed while somebody writes, recovery, a check of everything. $DATA: where the database lies.
exec 2>&1
export LC_ALL=C.UTF-8
bin=$(echo /usr/lib/postgresql/*/bin)
data=${DATA:-/var/lib/postgresql/data}
mkdir -p "$data" /run/postgresql
chown postgres "$data" /run/postgresql
as() {
    setpriv --reuid postgres --regid postgres --init-groups \
        env HOME=/var/lib/postgresql PATH="$bin:$PATH" PGHOST=/run/postgresql "$@"
}
as initdb -D "$data" -A trust >/tmp/initdb.log
echo "initdb: $?"
as pg_ctl -D "$data" -l "$data/log" -w -t 200 start >/dev/null
echo "start: $?"
as createdb bench
as pgbench -i -s 1 bench >/tmp/pgbench.log 2>&1
echo "filled: $?"
as pgbench -c 2 -t 50 bench 2>/dev/null | grep -E 'actually processed|failed trans'
as psql -qAt bench -c 'create table t as select generate_series(1, 5000) n' -c 'create index on t (n)' -c 'select count(*), sum(n) from t'

echo 0 >/tmp/done
for n in $(seq 10); do
    as psql -qAt bench -c "insert into t values (1000000 + $n)" >/dev/null 2>&1 && echo "$n" >/tmp/done
done &
sleep 2
kill -9 "$(head -n 1 "$data/postmaster.pid")"
wait
sleep 2
pkill -9 postgres
sleep 1
as pg_ctl -D "$data" -l "$data/log" -w -t 200 start >/dev/null
echo "start after the crash: $?"
grep -c 'automatic recovery in progress' "$data/log"
echo "nothing is lost: $(as psql -qAt bench -c "select count(*) >= $(cat /tmp/done) from t where n > 1000000")"
as psql -qAt bench -c 'select count(*), sum(n) from t where n <= 1000000' -c 'select count(*) from pgbench_accounts' \
    -c 'select (select sum(abalance) from pgbench_accounts) = (select sum(tbalance) from pgbench_tellers)'
as pgbench -c 2 -t 20 bench 2>/dev/null | grep -E 'actually processed|failed trans'
as pg_amcheck --install-missing bench
echo "checked: $?"
as psql -qAt bench -c 'vacuum full' -c 'checkpoint'
as pg_dump -t pgbench_accounts bench | grep -c '^[0-9]'
as pg_ctl -D "$data" -m fast -w stop >/dev/null
echo "stop: $?"
as pg_checksums -D "$data" --check | grep -E 'Bad|algorithm'
# Who was connected when it was killed says so as FATAL.
grep -oE '(PANIC|ERROR): .*' "$data/log" | sort | uniq -c
echo end
