"""The losses' inner loops as Triton kernels, behind `trainer.kernels: triton`.

Importing these modules needs Triton; nothing of the reference path does.
"""
