# pjdfstest in the folder $FOLDER: one line for each of its tests, and what it says of those that do not pass.
# $NODES: "with" for the tests of device nodes alone, "without" for all others.
exec 2>&1
mkdir -p "$FOLDER"
cat >/tmp/pjdfstest.toml <<'END'
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
secondary_fs = "/dev/shm"
[settings]
naptime = 0.05
[dummy_auth]
entries = [["app", "app"], ["www-data", "www-data"], ["daemon", "daemon"]]
END
cd "$FOLDER" || exit
pjdfstest -c /tmp/pjdfstest.toml -p "$FOLDER" >/tmp/all 2>/tmp/errors
# That some failed may be said of those that are not looked at here.
grep -vx 'Error: Some tests have failed' /tmp/errors
# A test's name, then what it says.
# The sum counts those of device nodes, too, and a test of the most links there may be needs a file system whose bound the C library knows.
awk '/^Summary/ {exit} /^[a-z]/ {name = $1; $1 = ""} NF && name != "" {print name ":" $0}' /tmp/all | grep -v '^link::link_count_max:' | sort >/tmp/lines
nodes='^mknod::device_files|^mknod::changed_times_success|^[a-z_:]*::(block|char):'
if [[ $NODES == with ]]; then grep -E "$nodes" /tmp/lines; else grep -vE "$nodes" /tmp/lines; fi
echo end
