# A program (e2e/workloads/Main.java): the heap by the memory limit, threads, files, mapped memory, locks, watches, sockets, processes.
exec 2>&1
cd /tmp || exit
java -cp /usr/local/share/java Main
echo "-> $?"
java -XX:+PrintFlagsFinal -version 2>/dev/null | awk '$2 ~ /^(UseSerialGC|UseContainerSupport)$/ {print $2, $4}'
echo end
