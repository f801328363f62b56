"""Which channels of a model can only be removed together.

`layout` describes tensors, `registry` and `rules` say what each operation does to their
channels, `builder` collects it, `graph` walks a model, `groups` solves what was said,
`scores` and `sites` choose what goes. This module changes when a step is added.
"""
