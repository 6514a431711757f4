"""The network: its architecture, its layers, how it runs, its checkpoints, and the same network hop by hop."""
