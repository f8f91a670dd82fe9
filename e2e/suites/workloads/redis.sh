# An append-only file is rewritten, survives a kill and an orderly end; so does a snapshot.
exec 2>&1
mkdir -p /var/lib/redis/data
cd /var/lib/redis/data || exit
start() {
    redis-server --daemonize yes --appendonly yes --dir /var/lib/redis/data --port 6379 --save '' --logfile /tmp/redis.log >/dev/null
    until redis-cli ping 2>/dev/null | grep -q PONG; do sleep 0.2; done
    # It answers while it is still loading.
    while redis-cli info persistence | grep -q '^loading:1'; do sleep 0.2; done
}
start
seq 500 | sed 's/.*/SET k& v&/' | redis-cli | sort | uniq -c
redis-cli bgrewriteaof
while redis-cli info persistence | grep -q '^aof_rewrite_in_progress:1'; do sleep 0.2; done
redis-cli incr counter
kill -9 "$(pidof redis-server)"
sleep 1
start
redis-cli dbsize
redis-cli get k77
redis-cli get counter
redis-cli save
redis-cli shutdown
sleep 1
ls . appendonlydir | sed 's/\.[0-9]*\././'
start
redis-cli dbsize
redis-cli info persistence | grep -E '^(aof_last_(bgrewrite|write)_status|rdb_last_bgsave_status)' | tr -d '\r'
redis-cli shutdown
redis-check-aof appendonlydir/*.manifest | tail -n 1
echo end
