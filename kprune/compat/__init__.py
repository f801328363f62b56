"""The interfaces of other pruning libraries, on kprune's engine.

Nothing here prunes: names and arguments are translated, and the engine does the rest.
What it cannot do is missing in the engine, not here. This module changes never; each
module in it changes when the library that it stands for is to be imitated better.
"""
