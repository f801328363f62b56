package org.tensorflow.lite;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Map;

/**
 * A stand-in with LiteRT's methods that the example uses, behind which LiteRT itself
 * runs, in a Python process: see serve.py.
 */
public final class Interpreter implements AutoCloseable {
    public static class Options {
        private int threads = -1;

        public Options setNumThreads(int threads) {
            this.threads = threads;
            return this;
        }
    }

    private final Process litert;
    private final PrintWriter questions;
    private final BufferedReader answers;

    public Interpreter(ByteBuffer model, Options options) {
        if (!(model instanceof MappedByteBuffer)) {
            throw new IllegalArgumentException("Model ByteBuffer should be mapped.");
        }
        try {
            Path file = Files.createTempFile("stand-in", ".tflite");
            file.toFile().deleteOnExit();
            try (FileChannel channel = FileChannel.open(file, StandardOpenOption.WRITE)) {
                channel.write(model.duplicate());
            }
            String script = System.getProperty("stand_in.serve");
            litert =
                new ProcessBuilder(
                        System.getProperty("stand_in.python"),
                        script,
                        file.toString(),
                        Integer.toString(options.threads))
                    .redirectError(ProcessBuilder.Redirect.INHERIT)
                    .start();
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        questions = new PrintWriter(litert.getOutputStream(), true);
        answers = new BufferedReader(new InputStreamReader(litert.getInputStream()));
    }

    public Tensor getInputTensorFromSignature(String name, String signature) {
        int size = Integer.parseInt(ask("input " + signature + " " + name));
        return () -> size;
    }

    public Tensor getOutputTensorFromSignature(String name, String signature) {
        int size = Integer.parseInt(ask("output " + signature + " " + name));
        return () -> size;
    }

    public void runSignature(
            Map<String, Object> inputs, Map<String, Object> outputs, String signature) {
        for (Map.Entry<String, Object> input : inputs.entrySet()) {
            FloatBuffer values = (FloatBuffer) input.getValue();
            StringBuilder text = new StringBuilder("set " + input.getKey());
            while (values.hasRemaining()) {
                text.append(' ').append(values.get());
            }
            ask(text.toString());
        }
        ask("run " + signature);
        for (Map.Entry<String, Object> output : outputs.entrySet()) {
            for (String value : ask("get " + output.getKey()).split(" ")) {
                ((FloatBuffer) output.getValue()).put(Float.parseFloat(value));
            }
        }
    }

    /** Asks LiteRT, which answers in one line. */
    private String ask(String question) {
        questions.println(question);
        try {
            String answer = answers.readLine();
            if (answer == null) {
                throw new IllegalArgumentException("LiteRT stopped at: " + question);
            }
            return answer;
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    @Override
    public void close() {
        questions.close();
        litert.destroy();
    }
}
