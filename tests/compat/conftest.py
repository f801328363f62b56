"""What pytest is not to import: it is run in a process of its own, with Keras 2."""

collect_ignore = ["make_tfmot_files.py"]
