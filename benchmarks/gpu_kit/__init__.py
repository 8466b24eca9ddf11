"""The parts of ``benchmarks/gpu.py``: see there.

report.py    sections, checks and tables, and how they are written
kit.py       the device, the networks, the clips, the clock
checks.py    numbers: precisions, batch sizes, overflow, too little memory
speed.py     rates: matrix products, the network, layouts, graphs, torch.compile, training
videos.py    the pipeline over videos: end to end, idle time of the device, resumed runs
sections.py  the table of all sections, in the order of their importance
"""
