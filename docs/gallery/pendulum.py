"""A pendulum learns to stand

The file simulates a pendulum for five seconds, in a loop. The gradient runs back through all of its steps and says how
each push changes where it ends: sixty rounds of Adam find weak pushes that swing it up, and hold it there.
"""

import os

import matplotlib.pyplot as plt
import numpy as np
from onnxscript import FLOAT, script
from onnxscript import opset21 as op

import onnxgrad as og

ROUNDS, DT = 3 if os.getenv("SMALL") else 400, 0.05
