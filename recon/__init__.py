"""Phone photos of one object in, a finished textured 3D asset out."""

import os

# OpenMP threads spin between parallel regions by default. Two pools (torch's and numba's) then take the cores from
# each other: ten times slower as soon as anything else runs. Must be set before either library is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
