package android.content.res;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

/** A stand-in whose assets are, as in an APK, parts of a larger file. */
public class AssetManager {
    private static final int BEFORE = 4096;
    private static final int AFTER = 1000;
    private final Path folder;

    public AssetManager(Path folder) {
        this.folder = folder;
    }

    public AssetFileDescriptor openFd(String name) throws IOException {
        byte[] asset = Files.readAllBytes(folder.resolve(name));
        ByteArrayOutputStream apk = new ByteArrayOutputStream();
        apk.write(new byte[BEFORE]);
        apk.write(asset);
        apk.write(new byte[AFTER]);
        Path file = Files.createTempFile(folder, "stand-in", ".apk");
        Files.write(file, apk.toByteArray());
        return new AssetFileDescriptor(file.toFile(), BEFORE, asset.length);
    }
}
