// What workloads/java.sh runs: threads, files, mapped memory, locks, watches, sockets, processes, garbage.
import java.net.*;
import java.nio.*;
import java.nio.channels.*;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.*;

public class Main {
    public static void main(String[] arguments) throws Exception {
        System.out.println("heap by the limit: " + (Runtime.getRuntime().maxMemory() >> 20));
        ExecutorService pool = Executors.newFixedThreadPool(8);
        List<Future<Long>> parts = new ArrayList<>();
        for (int i = 0; i < 8; i++) {
            final int k = i;
            parts.add(pool.submit(() -> { long sum = 0; for (int j = 0; j < 100000; j++) sum += j % (k + 1); return sum; }));
        }
        long sum = 0;
        for (Future<Long> part : parts) sum += part.get();
        System.out.println("sum " + sum);
        pool.shutdown();
        Path path = Files.createTempFile("file", ".tmp");
        Files.writeString(path, "hello");
        System.out.println(Files.readString(path) + " " + Files.size(path));
        try (FileChannel channel = FileChannel.open(path, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            try (FileLock lock = channel.lock()) { System.out.println("locked " + lock.isValid()); }
            MappedByteBuffer mapped = channel.map(FileChannel.MapMode.READ_WRITE, 0, 4096);
            mapped.put(0, (byte) 'H');
            mapped.force();
        }
        System.out.println((char) Files.readAllBytes(path)[0]);
        WatchService watch = FileSystems.getDefault().newWatchService();
        Path folder = Files.createTempDirectory("watched");
        folder.register(watch, StandardWatchEventKinds.ENTRY_CREATE);
        Files.createFile(folder.resolve("new"));
        System.out.println("seen " + (watch.poll(60, TimeUnit.SECONDS) != null));
        ServerSocket server = new ServerSocket(0);
        Thread client = new Thread(() -> {
            try (Socket socket = new Socket("127.0.0.1", server.getLocalPort())) { socket.getOutputStream().write(42); }
            catch (Exception error) { error.printStackTrace(); }
        });
        client.start();
        System.out.println("received " + server.accept().getInputStream().read());
        System.out.println("exit " + new ProcessBuilder("sh", "-c", "exit 3").start().waitFor());
        byte[][] junk = new byte[20][];
        for (int i = 0; i < 200; i++) junk[i % 20] = new byte[1 << 20];
        System.gc();
        System.out.println("collected");
    }
}
