"""Fine-tuning: from a recipe and examples to a model folder, on one process or many, resumable after a crash.

`run.train` is the only training function; the loss and the prefix trees are in `models`.
"""
