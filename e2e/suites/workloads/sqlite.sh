# A database in WAL mode, written by several processes at a time. $DATA: where it lies.
exec 2>&1
cd "${DATA:-/var/tmp}" || exit
sqlite3 x.db 'pragma journal_mode=wal; create table t (writer int, n int);'
writer() {
    local n
    for n in $(seq 30); do
        sqlite3 -cmd '.timeout 60000' x.db "insert into t values ($1, $n)" || echo "writer $1 fails"
    done
}
writer 1 &
writer 2 &
wait
sqlite3 x.db 'select writer, count(*), sum(n) from t group by writer' 'pragma integrity_check'
python3 - <<'END'
import multiprocessing as processes
import sqlite3


def writer(number):
    base = sqlite3.connect("x.db", timeout=60)
    for n in range(30):
        with base:
            base.execute("insert into t values (?, ?)", (number, n))
    base.close()


writers = [processes.get_context("fork").Process(target=writer, args=(number,)) for number in (3, 4, 5)]
for process in writers:
    process.start()
for process in writers:
    process.join()
base = sqlite3.connect("x.db")
for question in (
    "select writer, count(*) from t group by writer",
    "pragma journal_mode",
    "pragma wal_checkpoint(truncate)",
    "pragma mmap_size=268435456",
    "select count(*) from t",
    "pragma integrity_check",
    "pragma journal_mode=delete",
):
    print(question, base.execute(question).fetchall())
END
ls
echo end
