"""The network: its architecture, its layers, how it runs, what is kept of it, and the same network hop by hop."""
