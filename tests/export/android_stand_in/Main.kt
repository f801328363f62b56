import android.content.Context
import com.example.classifier.Classifier
import java.nio.file.Paths

/** Prints the labels, and for each line of numbers the classes with their scores. */
fun main(arguments: Array<String>) {
    Classifier(Context(Paths.get(arguments[0])), threads = 1).use { classifier ->
        println(classifier.labels.joinToString("\t"))
        generateSequence(::readLine).forEach { line ->
            val input = line.split(" ").map { it.toFloat() }.toFloatArray()
            val found = classifier.classify(input)
            println(found.joinToString("\t") { "${it.label}=${it.score}" })
        }
    }
}
