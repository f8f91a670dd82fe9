# Programs that change who they are: su, passwd, set-id bits, file capabilities; users that come and go.
exec 2>&1
as_app() { setpriv --reuid 1000 --regid 1000 --init-groups sh -c "$1"; }
echo root:secret | chpasswd
echo app:pw123456 | chpasswd
su app -c 'id -un; id -u'
as_app 'echo secret | su root -c "id -u"; echo wrong | su root -c id; echo "-> $?"'
as_app 'printf "pw123456\nNew-pass-1x\nNew-pass-1x\n" | passwd; echo "-> $?"'
as_app 'echo New-pass-1x | su app -c "id -un"'
useradd -m bob
id bob
userdel -r bob
echo "-> $?"
for file in /etc/passwd /etc/shadow /etc/shadow- /usr/bin/su; do stat -c '%n %A %U %G' "$file"; done
cp /usr/bin/id /tmp/id
chown 1000:1000 /tmp/id
chmod 6755 /tmp/id
setpriv --reuid 33 --regid 33 --clear-groups /tmp/id
as_app 'chage -l app >/dev/null; echo "-> $?"; chage -l root >/dev/null; echo "-> $?"'
chmod 755 /tmp/id
setcap cap_net_bind_service+ep /tmp/id
getcap /tmp/id
cp /tmp/id /tmp/copy
getcap /tmp/copy
echo x >>/tmp/id
echo "a write takes the capability away: $(getcap /tmp/id)"
chmod 6755 /tmp/id
chown 1000 /tmp/id
echo "a change of owner takes the set-id bits away: $(stat -c %a /tmp/id)"
chmod 6777 /tmp/id
as_app 'echo x >>/tmp/id'
echo "a write by somebody else takes the set-id bits away: $(stat -c %a /tmp/id)"
echo end
