# 100,000 files in one folder: made, listed, looked at, removed while they are listed.
exec 2>&1
mkdir /many
python3 - <<'END'
import os

COUNT = 100_000
for number in range(COUNT):
    os.close(os.open(f"/many/f{number:06}", os.O_CREAT | os.O_WRONLY))
print("listed", len(os.listdir("/many")))
print("with types", sum(entry.is_file(follow_symlinks=False) for entry in os.scandir("/many")))
print("looked at", sum(os.stat(entry.path).st_nlink for entry in os.scandir("/many")))
for number in range(0, COUNT, 2):
    os.unlink(f"/many/f{number:06}")
print("half of them", len(os.listdir("/many")))
removed = 0
for entry in os.scandir("/many"):
    os.unlink(entry.path)
    removed += 1
print("removed", removed, os.listdir("/many"))
END
rmdir /many
echo "-> $?"
echo end
