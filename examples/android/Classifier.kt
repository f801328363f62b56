package com.example.classifier

import android.content.Context
import org.tensorflow.lite.Interpreter
import java.io.Closeable
import java.io.FileInputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.MappedByteBuffer
import java.nio.channels.FileChannel
import java.util.zip.ZipInputStream

// The file in src/main/assets, and names as the report of kprune.export prints them.
private const val MODEL = "model.tflite"
private const val INPUT = "image"
private const val OUTPUT = "scores"

// What the converter calls the one signature of a file.
private const val SIGNATURE = "serving_default"

/** One class and its score, as the model gives it. */
data class Scored(val label: String, val score: Float)

/**
 * A model that was exported with kprune.export(model, "model.tflite", labels=...).
 *
 * Not for several threads at a time: Interpreter is not.
 *
 * @param threads How many threads compute: measure 1 to 4 on the device.
 */
class Classifier(context: Context, threads: Int = 2) : Closeable {
    private val model = map(context)

    /** The classes' names, in the order of the model's output. */
    val labels: List<String> = labelsIn(model)

    // XNNPACK is on by default. Sparse files need it: no other kernels skip zeros, so
    // neither setUseXNNPACK(false) nor a delegate for another processor.
    private val interpreter =
        Interpreter(model, Interpreter.Options().setNumThreads(threads))

    /** How many numbers [classify] takes. */
    val inputSize: Int =
        interpreter.getInputTensorFromSignature(INPUT, SIGNATURE).numElements()

    init {
        val output = interpreter.getOutputTensorFromSignature(OUTPUT, SIGNATURE)
        check(output.numElements() == labels.size) {
            "$MODEL has ${labels.size} labels for ${output.numElements()} scores"
        }
    }

    /**
     * Returns all classes, the best first.
     *
     * @param input What the Keras model was trained on, for one sample, in the order of
     *     its shape: rows, columns, channels for an image.
     */
    fun classify(input: FloatArray): List<Scored> {
        require(input.size == inputSize) {
            "$MODEL takes $inputSize numbers, received ${input.size}"
        }
        val scores = FloatBuffer.allocate(labels.size)
        interpreter.runSignature(
            mapOf<String, Any>(INPUT to FloatBuffer.wrap(input)),
            mapOf<String, Any>(OUTPUT to scores),
            SIGNATURE
        )
        return labels.zip(scores.array().asList(), ::Scored)
            .sortedByDescending { it.score }
    }

    override fun close() = interpreter.close()
}

/** Maps the file from where it stands in the APK, which must not compress it. */
private fun map(context: Context): MappedByteBuffer =
    context.assets.openFd(MODEL).use { asset ->
        FileInputStream(asset.fileDescriptor).channel.use { channel ->
            channel.map(
                FileChannel.MapMode.READ_ONLY, asset.startOffset, asset.declaredLength
            )
        }
    }

/**
 * Returns the labels from the ZIP archive that stands behind the model.
 *
 * ZipFile would need a copy of the file on the disk, and ZipInputStream has to begin at
 * the archive's first entry. The archive's last 22 bytes say where its directory is, and
 * the directory where the first entry is.
 */
fun labelsIn(model: ByteBuffer): List<String> {
    val bytes = model.duplicate().order(ByteOrder.LITTLE_ENDIAN)
    val end = bytes.limit() - 22
    require(end >= 0 && bytes.getInt(end) == 0x06054b50) {
        "$MODEL has no labels: export it with labels=..."
    }
    val directory = bytes.getInt(end + 16)
    bytes.position(bytes.getInt(directory + 42))
    val archive = ByteArray(bytes.remaining()).also { bytes.get(it) }
    return ZipInputStream(archive.inputStream()).use { zip ->
        generateSequence { zip.nextEntry }.first { it.name == "labels.txt" }
        zip.bufferedReader().readLines()
    }
}
