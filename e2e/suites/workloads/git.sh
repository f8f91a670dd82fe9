# A repository of 1,000 files: commits, clones, checkouts, renames, garbage collection, a check of everything.
exec 2>&1
export HOME=/root GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z'
git config --global user.email someone@example.org
git config --global user.name Someone
git config --global init.defaultBranch main
git config --global advice.detachedHead false
mkdir -p /git/a
cd /git/a || exit
git init -q
for folder in $(seq 20); do
    mkdir -p "d$folder/s"
    for file in $(seq 50); do echo "line $folder $file" >"d$folder/s/f$file"; done
done
git add .
git commit -qm one
git ls-files | wc -l
git checkout -qb other
for folder in $(seq 10); do
    echo more >>"d$folder/s/f1"
    git mv "d$folder/s/f2" "d$folder/renamed"
done
rm -r d20
git add -A
git commit -qm two
git diff --stat -M main other | tail -n 1
cd /git || exit
git clone -q a b
git -C b log --oneline | wc -l
git -C b checkout -q origin/main
git -C b status --short | wc -l
find b -type f -path '*/s/*' | wc -l
git -C b checkout -q other
git -C b status --short | wc -l
find b -type f -path '*/s/*' | wc -l
git -C b gc -q
git -C b fsck --full | tail -n 2
git -C b rev-parse HEAD
git clone -q --bare a c.git
git -C b worktree add -q ../tree origin/main
find tree -type f -path '*/s/*' | wc -l
git -C b grep -c 'line 7 7' | wc -l
git clone -q --no-local a e
git -C e status --short | wc -l
git -C e rev-parse HEAD
echo end
