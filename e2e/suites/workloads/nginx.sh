# Files served by sendfile, by threads past the cache, in parts, over TCP and a Unix socket; a reload, an orderly end.
exec 2>&1
mkdir -p /srv/www /var/log/nginx /var/lib/nginx /run
head -c 3000000 /dev/zero | tr '\0' x >/srv/www/big
for n in $(seq 50); do echo "page $n" >"/srv/www/$n"; done
cat >/etc/nginx/nginx.conf <<'END'
user www-data;
worker_processes 2;
error_log /var/log/nginx/errors;
events {}
http {
    sendfile on;
    access_log /var/log/nginx/access;
    server {
        listen 8080;
        listen unix:/run/nginx.sock;
        root /srv/www;
        autoindex on;
        location /direct { aio threads; directio 512k; alias /srv/www; }
    }
}
END
nginx -t; echo "-> $?"
nginx
sleep 1
at=http://127.0.0.1:8080
for n in $(seq 50); do curl -s "$at/$n"; done | sort | md5sum
curl -s "$at/big" | md5sum
curl -s "$at/direct/big" | md5sum
curl -s --unix-socket /run/nginx.sock http://x/big | wc -c
curl -s -r 5-9 "$at/big"
echo
echo changed >/srv/www/1
curl -s "$at/1"
curl -s -o /dev/null -w '%{http_code}\n' "$at/none"
curl -s "$at/" | grep -c href
nginx -s reload 2>/dev/null
sleep 2
curl -s "$at/2"
wc -l </var/log/nginx/access
ps -eo user,comm | grep nginx | sort | uniq -c
nginx -s quit 2>/dev/null
sleep 3
pidof nginx || echo gone
echo end
