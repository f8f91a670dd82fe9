# Names of every kind, long names, long paths, deep folders, a long symbolic link.
exec 2>&1
export LC_ALL=C.UTF-8
mkdir -p /names
cd /names || exit
touch größe 日本語 'a b' $'new\nline' $'\xff\xfe' -- -dash '*' '?' '"q"' "'" '\back' 😀 $'e\u0301' $'\u00e9'
python3 - <<'END'
import os

open("x" * 255, "w")
for name in ("y" * 256, "z/" * 2048):
    try:
        open(name, "w")
    except OSError as error:
        print(error.errno)
END
ls -1b | LC_ALL=C sort
rm -- $'\xff\xfe' -dash 😀
find . -maxdepth 1 -print0 | tr -dc '\0' | wc -c
mkdir -p "$(printf 'd/%.0s' $(seq 500))"
find . -type d | wc -l
rm -rf d
python3 - <<'END'
import os

os.mkdir("deep")
folder = os.open("deep", os.O_RDONLY)
for _ in range(60):
    os.mkdir("n" * 200, dir_fd=folder)
    below = os.open("n" * 200, os.O_RDONLY, dir_fd=folder)
    os.close(folder)
    folder = below
file = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=folder)
print(os.write(file, b"x"), os.fstat(file).st_size)
END
rm -rf deep
echo "-> $?"
ln -s "$(printf 'l%.0s' $(seq 4000))" link
readlink link | wc -c
echo end
