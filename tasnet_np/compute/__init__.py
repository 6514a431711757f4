"""How kernels run: threads on the CPU (`cpu`), memory and launches on the GPU (`gpu`), arrays on either (`arrays`).

README.md beside this file says how the parts work together, and why they are as they are.
"""
