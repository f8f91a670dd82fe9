# Random operations on one file in the folder $FOLDER, each checked; the seeds make them the same in every run.
exec 2>&1
mkdir -p "$FOLDER"
cd "$FOLDER" || exit
cat >/tmp/fsx.toml <<'END'
flen = 262144
[opsize]
max = 65536
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
truncate = 5
fsync = 1
fdatasync = 1
posix_fallocate = 1
punch_hole = 1
copy_file_range = 2
sendfile = 2
posix_fadvise = 1
END
for seed in 1 2 3; do
    fsx -f /tmp/fsx.toml -N 1500 -S "$seed" -P /tmp "file$seed" >/tmp/out
    echo "seed $seed: $?"
    tail -n 20 /tmp/out
done
echo end
