package android.content;

import android.content.res.AssetManager;
import java.nio.file.Path;

/** A stand-in: only what the example uses. */
public class Context {
    private final AssetManager assets;

    public Context(Path folder) {
        assets = new AssetManager(folder);
    }

    public AssetManager getAssets() {
        return assets;
    }
}
