"""Fine-tuning: from a recipe and examples to a finished folder, on one process or many, through kills and faults.

`run.train` is the one training function; the loss and the trees that it trains on are in `models`.
"""
